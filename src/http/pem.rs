//! Keys and certificates as they arrive: through environment variables, templates and editors, which quote,
//! escape and indent.

use base64::prelude::{BASE64_STANDARD, Engine};
use secrecy::zeroize::Zeroizing;

use super::words::is_visible;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// The text as it was before its way here mangled it, where that is beyond doubt: without quotes around it,
/// with line breaks where `\n` is written, without indentation, and not in base64 as a whole.
pub(super) fn tidied(text: &str) -> Zeroizing<String> {
    let text = unquoted(text.trim_start_matches('\u{feff}').trim());
    let text = if text.contains(BEGIN) || text.starts_with('{') { text } else { unpacked(text) };
    if text.contains(BEGIN) { in_lines(&text) } else { text }
}

fn unquoted(text: &str) -> Zeroizing<String> {
    // A string of JSON, and of YAML for the most part.
    if let Ok(inner) = serde_json::from_str::<String>(text) {
        return Zeroizing::new(inner.trim().to_owned());
    }
    let around = |quote| text.strip_prefix(quote)?.strip_suffix(quote);
    let text = around('"').or(around('\'')).unwrap_or(text).trim();
    Zeroizing::new(text.to_owned())
}

/// What is in base64 as a whole is a secret of Kubernetes that was encoded once more than it is decoded.
fn unpacked(text: Zeroizing<String>) -> Zeroizing<String> {
    let packed: String = text.split_whitespace().collect();
    let inner = BASE64_STANDARD.decode(Zeroizing::new(packed).as_bytes());
    let inner = inner.ok().and_then(|bytes| String::from_utf8(bytes).ok()).map(Zeroizing::new);
    match inner {
        Some(inner) if inner.contains(BEGIN) || inner.trim_start().starts_with('{') => inner,
        _ => text,
    }
}

/// Each section with its marks and its base64 in lines of their own. What is not PEM stays as it is, and is
/// said to be broken by whoever reads it.
fn in_lines(text: &str) -> Zeroizing<String> {
    let once = Zeroizing::new(text.replace("\\\\", "\\"));
    let text = Zeroizing::new(once.replace("\\r", "").replace("\\n", "\n"));
    let mut lines = Zeroizing::new(String::new());
    let mut rest = text.as_str();
    while let Some((_, section)) = rest.split_once(BEGIN) {
        let parts = || {
            let (name, section) = section.split_once(DASHES)?;
            let (body, section) = section.split_once(END)?;
            let (_, after) = section.split_once(DASHES)?;
            // Of two sections, one lacks its end.
            (!body.contains(BEGIN)).then_some((name, body, after))
        };
        let Some((name, body, after)) = parts() else { return text };
        // It has lines of a header, which matter: it is encrypted.
        let has_header = body.contains(':');
        let parts: Vec<_> = if has_header {
            body.lines().map(str::trim).collect()
        } else {
            let is_blank = |char: char| char.is_whitespace() || !is_visible(char);
            body.split(is_blank).filter(|line| !line.is_empty()).collect()
        };
        let body = Zeroizing::new(parts.join("\n"));
        for part in [BEGIN, name, DASHES, "\n", body.trim(), "\n", END, name, DASHES, "\n"] {
            lines.push_str(part);
        }
        rest = after;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = include_str!("../../tests/keys/p256.pem");
    const JWK: &str = include_str!("../../tests/keys/p256.jwk");

    #[test]
    fn what_was_mangled_on_its_way_is_as_it_was() {
        let one_line = KEY.trim().replace('\n', " ");
        let quoted = serde_json::to_string(KEY).unwrap();
        for mangled in [
            KEY.to_owned(),
            KEY.replace('\n', "\\n"),
            KEY.replace('\n', "\\r\\n"),
            KEY.replace('\n', "\\\\n"),
            KEY.replace('\n', "\u{200b}\n\u{a0}"),
            KEY.replace('\n', "\r\n"),
            format!("\"{}\"", KEY.replace('\n', "\\n")),
            format!("'{KEY}'"),
            format!("\u{feff}\n  \"{KEY}\"  "),
            quoted,
            one_line,
            format!("    {}", KEY.replace('\n', "\n    ")),
            format!("\t{}", KEY.replace('\n', "  \r\n\t")),
            BASE64_STANDARD.encode(KEY),
        ] {
            assert_eq!(*tidied(&mangled), *KEY, "{mangled}");
        }
        for mangled in [
            JWK.to_owned(),
            format!("'{JWK}'"),
            serde_json::to_string(JWK).unwrap(),
            BASE64_STANDARD.encode(JWK),
        ] {
            assert_eq!(tidied(&mangled).trim(), JWK.trim(), "{mangled}");
        }
        let two = format!("{KEY}{KEY}");
        assert_eq!(*tidied(&two), *two);
        for text in ["", "s3cr3t", "-----BEGIN ", "-----BEGIN X-----\nAA", "\"", "'", "\"a"] {
            assert_eq!(*tidied(text), text.trim());
        }
    }
}
