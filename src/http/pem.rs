//! Keys and certificates as they arrive: through environment variables, templates and editors, which quote,
//! escape and indent.

use base64::prelude::Engine;
use secrecy::zeroize::Zeroizing;
use url::form_urlencoded;

use super::keys::{BASE64_ANY, BASE64_URL_ANY};
use super::words::is_visible;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// The text as it was before its way here mangled it, where that is beyond doubt: without quotes around it,
/// with line breaks where `\n` is written, without indentation, and not escaped or in base64 as a whole.
pub(super) fn tidied(text: &str) -> Zeroizing<String> {
    /// Packed more often than this, nobody has it by mistake.
    const PACKED: usize = 3;
    let mut text = unquoted(text.trim_start_matches('\u{feff}').trim());
    for deeper in (0..PACKED).rev() {
        match unpacked(&text, deeper) {
            Some(inner) => text = unquoted(inner.trim()),
            None => break,
        }
    }
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

/// PEM or a JWK.
fn is_plain(text: &str) -> bool {
    text.contains(BEGIN) || text.trim_start().starts_with(['{', '['])
}

/// What was encoded once more than it is decoded: a string of JSON without its quotes, a form's value, a secret of
/// Kubernetes. `None` if that is not so, however often it is undone.
fn unpacked(text: &str, deeper: usize) -> Option<Zeroizing<String>> {
    if text.starts_with("{\\\"") || text.starts_with("[{\\\"") {
        let quoted = Zeroizing::new(format!("\"{text}\""));
        return serde_json::from_str(&quoted).ok().map(Zeroizing::new);
    }
    if is_plain(text) {
        return None;
    }
    let is_form = text.contains("BEGIN+");
    let pair =
        if is_form { format!("k={text}") } else { format!("k={}", text.replace('+', "%2B")) };
    let pair = Zeroizing::new(pair);
    let unescaped = text.contains('%').then(|| form_urlencoded::parse(pair.as_bytes()).next());
    let unescaped = unescaped.flatten().map(|(_, text)| text.into_owned());
    let packed: Zeroizing<String> = Zeroizing::new(text.split_whitespace().collect());
    let packed = packed.trim_end_matches('=');
    let decode = |bytes: Vec<u8>| String::from_utf8(bytes).ok();
    let decoded = [BASE64_ANY.decode(packed), BASE64_URL_ANY.decode(packed)];
    let decoded = decoded.into_iter().flatten().filter_map(decode);
    let mut inner = unescaped.into_iter().chain(decoded).map(Zeroizing::new);
    inner.find(|inner| is_plain(inner) || deeper > 0 && unpacked(inner, deeper - 1).is_some())
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
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

    use super::*;

    const KEY: &str = include_str!("../../tests/keys/p256.pem");
    const JWK: &str = include_str!("../../tests/keys/p256.jwk");

    fn percent(text: &str) -> String {
        text.bytes().fold(String::new(), |all, byte| format!("{all}%{byte:02X}"))
    }

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
            BASE64_STANDARD.encode(BASE64_STANDARD.encode(KEY)),
            percent(KEY),
            form_urlencoded::byte_serialize(KEY.as_bytes()).collect(),
        ] {
            assert_eq!(*tidied(&mangled), *KEY, "{mangled}");
        }
        for mangled in [
            JWK.to_owned(),
            format!("'{JWK}'"),
            serde_json::to_string(JWK).unwrap(),
            BASE64_STANDARD.encode(JWK),
            BASE64_URL_SAFE_NO_PAD.encode(JWK),
            JWK.replace('"', "\\\""),
            percent(JWK),
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
