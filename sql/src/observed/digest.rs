//! Normal forms of statements with their digests, and what digests stand for.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;

use bytes::Bytes;
use cairn_parser::SqlMode;
use cairn_parser::normalize::normalize;
use cairn_planner::identity::{Digest, Normal};
use foldhash::fast::{FixedState, RandomState};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

/// Normal forms that a node remembers.
const FORMS_MAX: usize = 4_096;
/// Bytes of a statement's text that are kept, and of which a digest is made: loads of rows are longer.
const TEXT_BYTES_MAX: usize = 4 << 10;

/// The beginning of a statement's text.
pub fn text_start(text: &str) -> &str {
    let is_end = |end: &usize| text.is_char_boundary(*end);
    let end = (0..=text.len().min(TEXT_BYTES_MAX)).rev().find(is_end);
    &text[..end.unwrap_or(0)]
}

/// The digest of a normal form.
pub fn digest_of(normal: &str) -> Digest {
    Digest(Sha256::digest(normal.as_bytes()).into())
}

/// A digest as lock requests carry it.
pub fn to_tag(digest: &Digest) -> Bytes {
    Bytes::copy_from_slice(&digest.0)
}

/// The digest that a lock request carried.
pub fn from_tag(tag: &[u8]) -> Option<Digest> {
    Some(Digest(tag.try_into().ok()?))
}

/// Normal forms of the statements that this node ran last: the digest of one that is known costs no SHA-256.
#[derive(Debug, Default)]
pub struct DigestTexts(Mutex<Forms>);

#[derive(Debug, Default)]
struct Forms {
    by_hash: HashMap<u64, Arc<Normal>, RandomState>,
    order: VecDeque<u64>,
}

impl DigestTexts {
    /// The normal form of a statement with its digest, which is remembered.
    pub fn normal(&self, text: &str, mode: &SqlMode) -> Arc<Normal> {
        let normal = normalize(text_start(text), mode);
        let hash = FixedState::default().hash_one(&normal);
        let known = self.0.lock().by_hash.get(&hash).cloned();
        if let Some(known) = known.filter(|known| *known.text == *normal) {
            return known;
        }
        let made = Arc::new(Normal { digest: digest_of(&normal), text: normal.into() });
        let mut forms = self.0.lock();
        if forms.by_hash.insert(hash, Arc::clone(&made)).is_none() {
            if forms.order.len() == FORMS_MAX
                && let Some(oldest) = forms.order.pop_front()
            {
                forms.by_hash.remove(&oldest);
            }
            forms.order.push_back(hash);
        }
        made
    }

    /// All that are known, by their digests as people see them.
    pub fn all(&self) -> HashMap<String, String> {
        let forms = self.0.lock();
        let shown = |form: &Arc<Normal>| (form.digest.to_string(), form.text.to_string());
        forms.by_hash.values().map(shown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_have_no_literals_and_are_bounded() {
        let texts = DigestTexts::default();
        let mode = SqlMode::default();
        let one = texts.normal("UPDATE t SET a = 1 WHERE id = 5", &mode);
        assert_eq!(texts.normal("UPDATE  t SET a = 2 WHERE id = 6", &mode).digest, one.digest);
        assert_eq!(&*one.text, "update `t` set `a` = ? where `id` = ?");
        assert_eq!(from_tag(&to_tag(&one.digest)), Some(one.digest));
        assert_eq!(from_tag(b"short"), None);
        for n in 0..2 * FORMS_MAX {
            texts.normal(&format!("SELECT c{n} FROM t"), &mode);
        }
        let all = texts.all();
        assert_eq!((all.len(), all.contains_key(&one.digest.to_string())), (FORMS_MAX, false));
    }

    #[test]
    fn digests_are_those_of_the_text() {
        let shown = digest_of("abc").to_string();
        assert_eq!(shown, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn of_a_long_text_the_beginning_is_kept() {
        let long = format!("INSERT INTO t VALUES ('{}')", "ü".repeat(TEXT_BYTES_MAX));
        let kept = text_start(&long);
        assert!(long.starts_with(kept) && kept.len() <= TEXT_BYTES_MAX);
        assert_eq!(text_start("SELECT 1"), "SELECT 1");
    }
}
