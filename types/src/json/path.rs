//! JSON paths: `$.a[0]."b c"[last-1]**.d`.

use std::fmt;

use super::{Json, JsonKind, JsonRef, JsonValue};
use crate::error::{Result, TypeError};

/// Most legs of a path; MySQL allows a hundred, too.
const LEGS_MAX: usize = 100;

/// A place in an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArrayIndex {
    /// From the front, 0 being the first.
    First(u32),
    /// From the back, 0 being the last.
    Last(u32),
}

impl ArrayIndex {
    /// Position in an array of `count` elements; negative before its front.
    pub(super) fn resolve(self, count: usize) -> i64 {
        match self {
            ArrayIndex::First(n) => i64::from(n),
            ArrayIndex::Last(n) => count as i64 - 1 - i64::from(n),
        }
    }
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathLeg {
    /// `.key`
    Member(String),
    /// `.*`
    AnyMember,
    /// `[n]`, `[last]`, `[last-n]`
    Index(ArrayIndex),
    /// `[n to m]`
    Range(ArrayIndex, ArrayIndex),
    /// `[*]`
    AnyIndex,
    /// `**`
    Deep,
}

/// A parsed path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JsonPath {
    legs: Vec<PathLeg>,
}

impl JsonPath {
    /// Parses a path.
    pub fn parse(text: &str) -> Result<JsonPath> {
        let mut parser = Parser { text, at: 0 };
        parser.path().map_err(|()| TypeError::InvalidJsonPath { position: parser.at })
    }

    /// The steps after `$`.
    pub fn legs(&self) -> &[PathLeg] {
        &self.legs
    }

    /// Whether the path may name several places.
    pub fn has_wildcard(&self) -> bool {
        !self.legs.iter().all(|leg| matches!(leg, PathLeg::Member(_) | PathLeg::Index(_)))
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

type Parsed<T> = std::result::Result<T, ()>;

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip_blanks(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn path(&mut self) -> Parsed<JsonPath> {
        self.skip_blanks();
        if !self.eat("$") {
            return Err(());
        }
        let mut legs = Vec::new();
        loop {
            self.skip_blanks();
            if self.rest().is_empty() {
                break;
            }
            if legs.len() == LEGS_MAX {
                return Err(());
            }
            legs.push(self.leg()?);
        }
        // `**` must be followed by what to look for.
        if legs.last() == Some(&PathLeg::Deep) {
            return Err(());
        }
        Ok(JsonPath { legs })
    }

    fn leg(&mut self) -> Parsed<PathLeg> {
        if self.eat("**") {
            return if self.rest().starts_with('*') { Err(()) } else { Ok(PathLeg::Deep) };
        }
        if self.eat(".") {
            self.skip_blanks();
            if self.eat("*") {
                return Ok(PathLeg::AnyMember);
            }
            return self.member().map(PathLeg::Member);
        }
        if self.eat("[") {
            self.skip_blanks();
            let leg = if self.eat("*") { PathLeg::AnyIndex } else { self.index_leg()? };
            self.skip_blanks();
            return if self.eat("]") { Ok(leg) } else { Err(()) };
        }
        Err(())
    }

    fn index_leg(&mut self) -> Parsed<PathLeg> {
        let from = self.index()?;
        let blanks = self.rest().starts_with(char::is_whitespace);
        self.skip_blanks();
        if !(blanks && self.eat("to")) {
            return Ok(PathLeg::Index(from));
        }
        if !self.rest().starts_with(char::is_whitespace) {
            return Err(());
        }
        self.skip_blanks();
        let to = self.index()?;
        let backwards = match (from, to) {
            (ArrayIndex::First(a), ArrayIndex::First(b)) => a > b,
            (ArrayIndex::Last(a), ArrayIndex::Last(b)) => a < b,
            _ => false,
        };
        if backwards { Err(()) } else { Ok(PathLeg::Range(from, to)) }
    }

    fn index(&mut self) -> Parsed<ArrayIndex> {
        if !self.eat("last") {
            return self.number().map(ArrayIndex::First);
        }
        let after = self.at;
        self.skip_blanks();
        if !self.eat("-") {
            self.at = after;
            return Ok(ArrayIndex::Last(0));
        }
        self.skip_blanks();
        self.number().map(ArrayIndex::Last)
    }

    fn number(&mut self) -> Parsed<u32> {
        let len = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        let number = self.rest()[..len].parse().map_err(|_| ())?;
        self.at += len;
        Ok(number)
    }

    fn member(&mut self) -> Parsed<String> {
        if self.rest().starts_with('"') {
            let mut escaped = false;
            let end = self.rest()[1..].find(|c| {
                let found = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                found
            });
            let literal = &self.rest()[..end.ok_or(())? + 2];
            let key = serde_json::from_str(literal).map_err(|_| ())?;
            self.at += literal.len();
            return Ok(key);
        }
        let len = self
            .rest()
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'))
            .unwrap_or(self.rest().len());
        let key = &self.rest()[..len];
        if key.is_empty() || key.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(());
        }
        let key = key.to_owned();
        self.at += len;
        Ok(key)
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = |index: &ArrayIndex| match index {
            ArrayIndex::First(n) => n.to_string(),
            ArrayIndex::Last(0) => "last".to_owned(),
            ArrayIndex::Last(n) => format!("last-{n}"),
        };
        f.write_str("$")?;
        for leg in &self.legs {
            match leg {
                PathLeg::Member(key) => write!(f, ".{}", path_key(key))?,
                PathLeg::AnyMember => f.write_str(".*")?,
                PathLeg::Index(at) => write!(f, "[{}]", index(at))?,
                PathLeg::Range(from, to) => write!(f, "[{} to {}]", index(from), index(to))?,
                PathLeg::AnyIndex => f.write_str("[*]")?,
                PathLeg::Deep => f.write_str("**")?,
            }
        }
        Ok(())
    }
}

/// A key as a path writes it: quoted unless it is an identifier.
fn path_key(key: &str) -> String {
    let plain = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$')
        && !key.starts_with(|c: char| c.is_ascii_digit())
        && !key.is_empty();
    if plain { key.to_owned() } else { super::quote(key) }
}

impl<'a> JsonRef<'a> {
    /// All places a path names, in document order, each once.
    pub fn find(self, path: &JsonPath) -> Vec<JsonRef<'a>> {
        let mut found = Vec::new();
        self.walk(&path.legs, &mut found);
        if path.legs.contains(&PathLeg::Deep) {
            // A place may be reached in several ways; it counts once.
            let mut seen = std::collections::HashSet::new();
            found.retain(|place| seen.insert(place.as_bytes().as_ptr()));
        }
        found
    }

    fn walk(self, legs: &[PathLeg], found: &mut Vec<JsonRef<'a>>) {
        let Some((leg, rest)) = legs.split_first() else {
            return found.push(self);
        };
        let is_array = self.kind() == JsonKind::Array;
        match leg {
            PathLeg::Member(key) => {
                if let Some(value) = self.member(key) {
                    value.walk(rest, found);
                }
            }
            PathLeg::AnyMember => self.members().for_each(|(_, value)| value.walk(rest, found)),
            PathLeg::AnyIndex => self.elements().for_each(|value| value.walk(rest, found)),
            PathLeg::Index(index) if is_array => {
                let at = usize::try_from(index.resolve(self.count()));
                if let Some(value) = at.ok().and_then(|at| self.element(at)) {
                    value.walk(rest, found);
                }
            }
            PathLeg::Range(from, to) if is_array => {
                let last = self.count() as i64 - 1;
                let (from, to) = (from.resolve(self.count()).max(0), to.resolve(self.count()));
                for at in from..=to.min(last) {
                    if let Some(value) = self.element(at as usize) {
                        value.walk(rest, found);
                    }
                }
            }
            // A value that is no array counts as an array of one.
            PathLeg::Index(index) => {
                if index.resolve(1) == 0 {
                    self.walk(rest, found);
                }
            }
            PathLeg::Range(from, to) => {
                if from.resolve(1) <= 0 && to.resolve(1) >= 0 {
                    self.walk(rest, found);
                }
            }
            PathLeg::Deep => {
                self.walk(rest, found);
                self.elements().for_each(|value| value.walk(legs, found));
                self.members().for_each(|(_, value)| value.walk(legs, found));
            }
        }
    }

    /// JSON_EXTRACT: one place as it is; several, or several paths, as an array;
    /// `None` if there is none.
    pub fn extract(self, paths: &[JsonPath]) -> Option<Json> {
        let found: Vec<JsonRef<'a>> = paths.iter().flat_map(|path| self.find(path)).collect();
        let one = matches!(paths, [path] if !path.has_wildcard());
        match found.as_slice() {
            [] => None,
            [place] if one => Some(place.to_json()),
            _ => {
                let places = found.into_iter().map(JsonValue::Ref).collect();
                Some(Json::from_value(&JsonValue::Array(places)))
            }
        }
    }

    /// JSON_KEYS: the keys of an object as an array.
    pub fn keys(self) -> Option<Json> {
        if self.kind() != JsonKind::Object {
            return None;
        }
        let keys = self.members().map(|(key, _)| JsonValue::String(key.into())).collect();
        Some(Json::from_value(&JsonValue::Array(keys)))
    }

    /// Paths of the strings that `matches` accepts (JSON_SEARCH), the first only
    /// if `one`.
    pub fn search(self, one: bool, matches: &mut dyn FnMut(&str) -> bool) -> Vec<String> {
        let mut found = Vec::new();
        self.search_from("$", one, matches, &mut found);
        found
    }

    fn search_from(
        self,
        path: &str,
        one: bool,
        matches: &mut dyn FnMut(&str) -> bool,
        found: &mut Vec<String>,
    ) {
        if one && !found.is_empty() {
            return;
        }
        if let Some(text) = self.as_str() {
            if matches(text) {
                found.push(path.to_owned());
            }
            return;
        }
        for (i, value) in self.elements().enumerate() {
            value.search_from(&format!("{path}[{i}]"), one, matches, found);
        }
        for (key, value) in self.members() {
            value.search_from(&format!("{path}.{}", path_key(key)), one, matches, found);
        }
    }

    /// JSON_CONTAINS.
    pub fn contains(self, candidate: JsonRef<'_>) -> bool {
        match (self.kind(), candidate.kind()) {
            (JsonKind::Array, JsonKind::Array) => candidate
                .elements()
                .all(|wanted| self.elements().any(|element| element.contains(wanted))),
            (JsonKind::Array, _) => self.elements().any(|element| element.contains(candidate)),
            (JsonKind::Object, JsonKind::Object) => candidate
                .members()
                .all(|(key, wanted)| self.member(key).is_some_and(|own| own.contains(wanted))),
            _ => self == candidate,
        }
    }

    /// JSON_OVERLAPS.
    pub fn overlaps(self, other: JsonRef<'_>) -> bool {
        match (self.kind(), other.kind()) {
            (JsonKind::Array, JsonKind::Array) => {
                self.elements().any(|own| other.elements().any(|wanted| own == wanted))
            }
            (JsonKind::Array, _) => self.elements().any(|own| own == other),
            (_, JsonKind::Array) => other.elements().any(|wanted| self == wanted),
            (JsonKind::Object, JsonKind::Object) => {
                other.members().any(|(key, wanted)| self.member(key) == Some(wanted))
            }
            _ => self == other,
        }
    }

    /// MEMBER OF: `self` is the array (or the one value).
    pub fn has_member(self, value: JsonRef<'_>) -> bool {
        match self.kind() {
            JsonKind::Array => self.elements().any(|own| own == value),
            _ => self == value,
        }
    }
}
