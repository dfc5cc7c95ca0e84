//! `LIKE` patterns of `SHOW` and of hosts: ASCII case does not matter.

/// Whether `text` matches a pattern of `%`, `_` and characters; `\` takes the next
/// character as it is.
pub fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    // Where to go on when a later part fails: behind the last `%`, one character further.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some('%') => {
                retry = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some('_') => Some(1),
            Some('\\') if p + 1 < pattern.len() => same(pattern[p + 1], text[t]).then_some(2),
            Some(literal) => same(*literal, text[t]).then_some(1),
            None => None,
        };
        match (step, &mut retry) {
            (Some(step), _) => {
                p += step;
                t += 1;
            }
            (None, Some((behind, from))) => {
                *from += 1;
                (p, t) = (*behind, *from);
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|rest| *rest == '%')
}

fn same(a: char, b: char) -> bool {
    a == b || a.eq_ignore_ascii_case(&b) || a.to_lowercase().eq(b.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn wildcards_and_escapes() {
        assert!(matches("%", "") && matches("a%", "abc") && matches("%C", "abc"));
        assert!(matches("a_c", "abc") && !matches("a_c", "ac"));
        assert!(matches("a\\_c", "a_c") && !matches("a\\_c", "abc"));
        assert!(matches("%ab%ab", "abxabab") && !matches("%ab%ab", "abx"));
        assert!(!matches("", "a") && matches("", ""));
        assert!(!matches(&"%a".repeat(30), &"b".repeat(2_000)), "no exponential time");
    }
}
