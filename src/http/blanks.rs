//! One rule for blanks and line breaks, which come along when a value is pasted or read from a file: around
//! an id, an address, an audience, a scope or an assertion they are left out; inside of one they are refused,
//! since nobody can tell what was meant.

use super::words::is_visible;

/// Without what is blank or cannot be seen around it.
pub(super) fn trimmed(text: &str) -> &str {
    text.trim_matches(|char: char| char.is_whitespace() || !is_visible(char))
}

/// What completes "the id", say: for a value that may have blanks inside, but no line break.
pub(super) fn check_line(text: &str) -> Result<(), String> {
    check(text, |char| char == ' ' || !char.is_whitespace() && is_visible(char))
}

/// The same for one that may have no blanks.
pub(super) fn check_word(text: &str) -> Result<(), String> {
    check(text, |char| !char.is_whitespace() && is_visible(char))
}

/// What completes "the audience", say: for one that was given, though it says nothing.
pub(super) fn check_some(text: &str) -> Result<(), String> {
    if trimmed(text).is_empty() {
        return Err("is empty: leave it out, or give one".into());
    }
    check_line(trimmed(text))
}

/// Shows nothing of it: it may be an assertion.
fn check(text: &str, may_stand: impl Fn(char) -> bool) -> Result<(), String> {
    match text.chars().position(|char| !may_stand(char)) {
        None => Ok(()),
        Some(at) => Err(format!(
            "has a blank, a line break or what cannot be seen in it, after {at} character{}: leave it out",
            if at == 1 { "" } else { "s" }
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn around_a_text_they_are_left_out_and_inside_they_are_refused() {
        for text in [" id", "id\r\n", "\u{feff}id\t", "\u{a0}id\u{200b}\u{2028}", "id"] {
            assert_eq!(trimmed(text), "id");
        }
        assert_eq!((check_line("an id"), check_word("id")), (Ok(()), Ok(())));
        for text in ["an\nid", "an\tid", "an\u{200b}id", "an\u{2028}id", "an\u{202e}id"] {
            let problem = check_line(text).unwrap_err();
            assert!(problem.contains("after 2 characters"), "{problem}");
            assert!(check_word(text).is_err());
        }
        assert!(check_word("an id").is_err());
        assert!(check_word("a b").unwrap_err().contains("after 1 character:"));
        for text in ["", " \n", "\u{200b}"] {
            assert!(check_some(text).unwrap_err().starts_with("is empty"));
        }
    }
}
