//! What a server says, fit to be kept and shown: the one filter for all text that comes over the wire.

use std::ops::Range;

use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD, Engine};
use secrecy::zeroize::Zeroizing;
use url::form_urlencoded;

use super::limits::SHORT_SECRET;

/// What stands in place of a secret.
pub(super) const REDACTED: &str = "[redacted]";

/// The visible part of this text, without what shows one of these secrets, and no longer than this many
/// characters.
pub(super) fn fit(words: &str, secrets: &[&str], longest: usize) -> String {
    let mut traces: Vec<_> = secrets.iter().flat_map(|secret| traces(secret)).collect();
    traces.sort_by(|one, other| one.bytes.cmp(&other.bytes));
    traces.dedup();
    // What is redacted makes room for what follows it, so more is looked at than is kept; and further
    // still, or a secret that is cut there would not be recognized.
    let looked_at = longest.saturating_mul(4);
    let visible = words.chars().filter(|char| is_visible(*char));
    let text: String = visible.take(looked_at + ENOUGH * LONGEST_ESCAPE).collect();
    let end = text.char_indices().nth(looked_at).map_or(text.len(), |(at, _)| at);
    let mut kept = String::new();
    let mut at = 0;
    for hidden in hidden(&text, &traces, end) {
        kept += &text[at..hidden.start];
        kept += REDACTED;
        at = hidden.end;
    }
    kept += text.get(at..end).unwrap_or_default();
    match kept.char_indices().nth(longest) {
        Some((end, _)) => kept[..end].to_owned() + "…",
        None => kept,
    }
}

/// Its word may be one of somebody else's by chance.
pub(super) fn is_short(secret: &str) -> bool {
    secret.chars().count() < SHORT_SECRET
}

/// Neither a control character nor one that reorders the text around it, nor one that shows nothing, by
/// which a string could hold another.
pub(super) fn is_visible(char: char) -> bool {
    let unseen = matches!(char,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff0}'..='\u{fffc}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}');
    // What stands for nothing that anybody agrees on (Unicode §23.5 and §23.7).
    let unassigned = matches!(char,
        '\u{e000}'..='\u{f8ff}' | '\u{fdd0}'..='\u{fdef}' | '\u{f0000}'..)
        || u32::from(char) & 0xfffe == 0xfffe;
    !char.is_control() && !unseen && !unassigned
}

/// One way in which a server could show a secret, escapes aside: those are undone in its words.
#[derive(PartialEq)]
struct Trace {
    bytes: Zeroizing<Vec<u8>>,
    /// It is so short that it would be found in other words.
    only_whole_words: bool,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    /// The rest of its word is of the same secret.
    Base64,
    /// In place of a letter that is not ASCII it has [`ANY`].
    Mangled,
}

impl Trace {
    fn new(bytes: &[u8], kind: Kind) -> Self {
        // Counted as characters, whatever was undone.
        let length = bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count();
        let only_whole_words = length < SHORT_SECRET;
        Self { bytes: Zeroizing::new(bytes.to_vec()), only_whole_words, kind }
    }
}

/// The one place that says how a secret can be recognized: as it is, and in base64, alone or among other
/// text, form-encoded or not; and so by its signature, which alone would do to whoever can guess the rest.
fn traces(secret: &str) -> Vec<Trace> {
    let lines = secret;
    let visible: String = secret.chars().filter(|char| is_visible(*char)).collect();
    let visible = Zeroizing::new(visible);
    let secret = visible.trim();
    let mut traces = Vec::new();
    push_folded(secret, &mut traces);
    if secret.is_empty() {
        return Vec::new();
    }
    let signature = secret.rsplit_once('.').filter(|(rest, _)| rest.contains('.'));
    let signature = signature.map(|(_, signature)| signature);
    push_mangled(secret, &mut traces);
    // What is left of it where somebody has cut its quotes, its padding or one of its lines.
    let bare = secret.trim_matches(['"', '\'']);
    let cut = [bare, bare.trim_end_matches('=')].into_iter().chain(lines.lines());
    let parts = signature.into_iter().chain(cut).map(str::trim);
    let mut texts: Vec<_> =
        [secret].into_iter().chain(parts.filter(|text| !is_short(text))).collect();
    texts.dedup();
    for text in texts {
        traces.push(Trace::new(text.as_bytes(), Kind::Plain));
        // It may look like an escape itself, and then is undone with those around it.
        if let Some(undone) = undone(text) {
            traces.push(Trace::new(&undone, Kind::Plain));
        }
        let encoded: Zeroizing<String> =
            Zeroizing::new(form_urlencoded::byte_serialize(text.as_bytes()).collect());
        let spaced = Zeroizing::new(encoded.replace('+', "%20"));
        let mut texts = vec![text, &encoded, &spaced];
        texts.dedup();
        for text in texts {
            push_base64(text, &mut traces);
        }
    }
    traces
}

/// As its text is read, where that is another.
fn push_folded(secret: &str, traces: &mut Vec<Trace>) {
    for blank in [Some(b' '), None] {
        let mut view = written(secret);
        fold(&mut view, blank);
        let bytes: Zeroizing<Vec<u8>> = Zeroizing::new(view.iter().map(|seen| seen.byte).collect());
        if *bytes != *secret.as_bytes() {
            traces.push(Trace::new(&bytes, Kind::Plain));
        }
    }
}

/// Stands in a trace of a mangled secret for a letter, whatever has become of it. No UTF-8 has this byte.
const ANY: u8 = 0xff;

/// How many bytes a letter can have become: `&eacute;`, or what its bytes are when they are read as Latin-1.
const LONGEST_MANGLED: usize = 8;

/// What becomes of letters that are not ASCII, where a server takes them for another encoding, normalizes them or has
/// no such letters: Latin-1, a question mark, a name, or anything. What is between them stays what it is.
fn push_mangled(secret: &str, traces: &mut Vec<Trace>) {
    /// With less of it left, it would be found anywhere.
    const LEAST: usize = 4;
    if secret.is_ascii() {
        return;
    }
    let latin1 = secret.chars().map(|char| u8::try_from(u32::from(char)).ok());
    if let Some(latin1) = latin1.collect::<Option<Vec<u8>>>().map(Zeroizing::new) {
        traces.push(Trace::new(&latin1, Kind::Plain));
    }
    let ascii =
        secret.chars().map(|char| u8::try_from(char).ok().filter(u8::is_ascii).unwrap_or(ANY));
    let ascii = Zeroizing::new(ascii.collect::<Vec<u8>>());
    let parts: Vec<&[u8]> = ascii.split(|byte| *byte == ANY).collect();
    let first = parts.iter().position(|part| !part.is_empty());
    let last = parts.iter().rposition(|part| !part.is_empty());
    if let (Some(first), Some(last)) = (first, last)
        && ascii.len() >= SHORT_SECRET
        && parts.iter().map(|part| part.len()).sum::<usize>() >= LEAST
    {
        let bytes = Zeroizing::new(parts[first..=last].join(&ANY));
        traces.push(Trace { only_whole_words: false, ..Trace::new(&bytes, Kind::Mangled) });
    }
    // Somebody may have cut it.
    for part in parts.iter().map(|part| part.trim_ascii()).filter(|part| part.len() >= SHORT_SECRET)
    {
        traces.push(Trace::new(part, Kind::Plain));
    }
}

fn push_base64(text: &str, traces: &mut Vec<Trace>) {
    for engine in [BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD] {
        // Three bytes become four characters, so what it looks like depends on how many were before it.
        for before in 0..3 {
            let bytes = Zeroizing::new([&[0; 2][..before], text.as_bytes()].concat());
            let base64 = Zeroizing::new(engine.encode(&*bytes));
            // Those that hold nothing but bits of the text.
            let own = (before * 8).div_ceil(6)..bytes.len() * 8 / 6;
            match base64.get(own) {
                Some(own) if own.len() >= SHORT_SECRET => {
                    traces.push(Trace::new(own.as_bytes(), Kind::Base64));
                }
                _ if before == 0 => traces.push(Trace::new(base64.as_bytes(), Kind::Base64)),
                _ => {}
            }
        }
    }
}

/// So many bytes of a secret are recognized as it: more would cost time for each place where it could begin,
/// and somebody may have cut it.
const ENOUGH: usize = 256;

/// How often escapes are undone: a server may escape for JSON what it has escaped for HTML, a form may have
/// been in it, and an escape in the secret.
const ESCAPED_IN_ESCAPED: usize = 6;

/// How many characters one can become: `&#x00e4;`, of which each can be escaped once more.
const LONGEST_ESCAPE: usize = 12;

/// A byte that was written so: by the bytes of the text from here to there.
#[derive(Clone, Copy)]
struct Written {
    byte: u8,
    from: usize,
    to: usize,
}

fn written(text: &str) -> Vec<Written> {
    let bytes = text.bytes().enumerate();
    bytes.map(|(at, byte)| Written { byte, from: at, to: at + 1 }).collect()
}

/// Without any escape, if there was one.
fn undone(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut view = unescaped(&written(text))?;
    for _ in 1..ESCAPED_IN_ESCAPED {
        match unescaped(&view) {
            Some(next) => view = next,
            None => break,
        }
    }
    Some(Zeroizing::new(view.iter().map(|seen| seen.byte).collect()))
}

/// Where the traces are in this text that begin before `end`, in order and apart.
fn hidden(text: &str, traces: &[Trace], end: usize) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut by_first_byte = vec![Vec::new(); 256];
    for (index, trace) in traces.iter().enumerate() {
        // A secret that is nothing but escapes of what is not seen leaves a trace of nothing.
        if let Some(first) = trace.bytes.first() {
            by_first_byte[usize::from(plain(*first))].push(index);
        }
    }
    // What looks like a blank may stand for one, or for nothing.
    for blank in [Some(b' '), None] {
        let mut any_blank = false;
        let mut view = written(text);
        for _ in 0..=ESCAPED_IN_ESCAPED {
            any_blank |= fold(&mut view, blank);
            find(&view, traces, &by_first_byte, end, &mut found);
            match unescaped(&view) {
                Some(next) => view = next,
                None => break,
            }
        }
        if !any_blank {
            break;
        }
    }
    // A secret in Latin-1 may begin with the last byte of a character, and one that was cut end within one.
    for range in &mut found {
        while !text.is_char_boundary(range.start) {
            range.start -= 1;
        }
        while !text.is_char_boundary(range.end) {
            range.end += 1;
        }
    }
    found.sort_by_key(|range| range.start);
    let mut apart: Vec<Range<usize>> = Vec::new();
    for range in found {
        match apart.last_mut() {
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            _ => apart.push(range),
        }
    }
    apart
}

/// A form writes a space as `+`, and a host is written in lower case.
fn plain(byte: u8) -> u8 {
    if byte == b'+' { b' ' } else { byte.to_ascii_lowercase() }
}

/// Reads characters as whoever sees them does: those in full width as what they are, blanks of whatever kind as this
/// one or as nothing, and what is not seen as nothing. Whether there were blanks.
fn fold(view: &mut Vec<Written>, blank: Option<u8>) -> bool {
    if view.iter().all(|seen| seen.byte.is_ascii()) {
        return false;
    }
    let (mut folded, mut at, mut any_blank) = (Vec::with_capacity(view.len()), 0, false);
    while let Some(first) = view.get(at) {
        let length = match first.byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        let whole = view.get(at..at + length).filter(|_| length > 1);
        let bytes: Vec<u8> = whole.unwrap_or_default().iter().map(|seen| seen.byte).collect();
        let char = std::str::from_utf8(&bytes).ok().and_then(|text| text.chars().next());
        let Some(char) = char else {
            folded.push(*first);
            at += 1;
            continue;
        };
        let last = view[at + length - 1];
        let mut push = |byte| folded.push(Written { byte, from: first.from, to: last.to });
        match char {
            '\u{ff01}'..='\u{ff5e}' => {
                u8::try_from(u32::from(char) - 0xfee0).into_iter().for_each(&mut push);
            }
            _ if char.is_whitespace() => {
                any_blank = true;
                blank.into_iter().for_each(&mut push);
            }
            _ if !is_visible(char) => {}
            _ => folded.extend_from_slice(&view[at..at + length]),
        }
        at += length;
    }
    *view = folded;
    any_blank
}

/// Looks at each place for those traces alone that begin with its byte.
fn find(
    view: &[Written],
    traces: &[Trace],
    by_first_byte: &[Vec<usize>],
    before: usize,
    found: &mut Vec<Range<usize>>,
) {
    // Where each may begin again: none begins within itself.
    let mut from = vec![0; traces.len()];
    for (at, first) in view.iter().enumerate().take_while(|(_, seen)| seen.from < before) {
        for index in &by_first_byte[usize::from(plain(first.byte))] {
            if at >= from[*index]
                && let Some(range) = match_at(view, at, &traces[*index])
            {
                found.push(view[range.start].from..view[range.end - 1].to);
                from[*index] = range.end;
            }
        }
    }
}

fn match_at(view: &[Written], at: usize, trace: &Trace) -> Option<Range<usize>> {
    let (enough, rest) = trace.bytes.split_at(trace.bytes.len().min(ENOUGH));
    let end = match trace.kind {
        Kind::Mangled => end_of(view, at, enough)?,
        _ if alike(view, at, enough) < enough.len() => return None,
        _ => at + enough.len(),
    };
    let (mut start, mut end) = (at, end + alike(view, end, rest));
    let is_part = || {
        let around = [start.checked_sub(1).and_then(|at| view.get(at)), view.get(end)];
        around.iter().flatten().any(|seen| is_of_word(seen.byte))
    };
    if trace.only_whole_words && is_part() {
        return None;
    }
    let is_of_secret = |byte: u8| match trace.kind {
        Kind::Plain => false,
        Kind::Base64 => is_base64(byte),
        Kind::Mangled => !byte.is_ascii(),
    };
    while start > 0 && is_of_secret(view[start - 1].byte) {
        start -= 1;
    }
    while view.get(end).is_some_and(|next| is_of_secret(next.byte)) {
        end += 1;
    }
    Some(start..end)
}

/// Where these bytes end that begin here, with whatever has become of the letters.
fn end_of(view: &[Written], at: usize, bytes: &[u8]) -> Option<usize> {
    let (mut end, mut letters) = (at, 0);
    for part in bytes.split(|byte| *byte == ANY) {
        if !part.is_empty() {
            let starts = end..=end + letters * LONGEST_MANGLED;
            let start = starts.into_iter().find(|start| alike(view, *start, part) == part.len())?;
            if view[end..start].iter().any(|seen| seen.byte.is_ascii_whitespace()) {
                return None;
            }
            (end, letters) = (start + part.len(), 0);
        }
        letters += 1;
    }
    Some(end)
}

/// How many of these bytes are there.
fn alike(view: &[Written], at: usize, bytes: &[u8]) -> usize {
    let pairs = view.get(at..).unwrap_or_default().iter().zip(bytes);
    pairs.take_while(|(seen, wanted)| plain(seen.byte) == plain(**wanted)).count()
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'=')
}

/// One layer of escapes undone: percent-encoding (RFC 3986 §2.1), JSON (RFC 8259 §7), HTML. `None` if there
/// were none.
fn unescaped(view: &[Written]) -> Option<Vec<Written>> {
    let mut plain = Vec::with_capacity(view.len());
    let (mut at, mut any) = (0, false);
    while let Some(first) = view.get(at) {
        let escape = match first.byte {
            b'%' => hex(view, at + 1, 2).map(|code| (Escaped::Byte(code), 3)),
            b'\\' => backslash(view, at),
            b'&' => entity(view, at),
            _ => None,
        };
        let Some((escaped, length)) = escape else {
            plain.push(*first);
            at += 1;
            continue;
        };
        any = true;
        let (from, to) = (first.from, view[at + length - 1].to);
        let mut push = |byte| plain.push(Written { byte, from, to });
        match escaped {
            Escaped::Byte(code) => push(u8::try_from(code).unwrap_or_default()),
            // One that is not visible is not in the trace either.
            Escaped::Char(char) if is_visible(char) => {
                char.encode_utf8(&mut [0; 4]).bytes().for_each(push);
            }
            Escaped::Char(_) => {}
        }
        at += length;
    }
    any.then_some(plain)
}

enum Escaped {
    Byte(u32),
    Char(char),
}

fn hex(view: &[Written], at: usize, digits: usize) -> Option<u32> {
    number(view.get(at..at + digits)?, 16)
}

fn number(digits: &[Written], base: u32) -> Option<u32> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u32, |number, digit| {
        let digit = char::from(digit.byte).to_digit(base)?;
        number.checked_mul(base)?.checked_add(digit)
    })
}

/// What it stands for, and how long it is.
fn backslash(view: &[Written], at: usize) -> Option<(Escaped, usize)> {
    let char = match view.get(at + 1)?.byte {
        b'u' => {
            let unit = hex(view, at + 2, 4)?;
            let low = || {
                let marks = view.get(at + 6..at + 8)?;
                let is_escape = marks[0].byte == b'\\' && marks[1].byte == b'u';
                hex(view, at + 8, 4).filter(|low| is_escape && (0xdc00..0xe000).contains(low))
            };
            return match (unit, (0xd800..0xdc00).contains(&unit).then(low).flatten()) {
                (high, Some(low)) => {
                    let code = 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                    Some((Escaped::Char(char::from_u32(code)?), 12))
                }
                (unit, None) => Some((Escaped::Char(char::from_u32(unit)?), 6)),
            };
        }
        b'x' => return Some((Escaped::Char(char::from_u32(hex(view, at + 2, 2)?)?), 4)),
        b'b' | b'f' | b'n' | b'r' | b't' => '\n',
        byte @ (b'"' | b'\'' | b'/' | b'\\') => char::from(byte),
        _ => return None,
    };
    Some((Escaped::Char(char), 2))
}

/// What it stands for, and how long it is.
fn entity(view: &[Written], at: usize) -> Option<(Escaped, usize)> {
    let rest = view.get(at + 1..)?;
    if rest.first()?.byte == b'#' {
        let is_hex = rest.get(1).is_some_and(|seen| matches!(seen.byte, b'x' | b'X'));
        let (from, base) = if is_hex { (2, 16) } else { (1, 10) };
        // However many zeros it begins with; and browsers do without its end.
        let digits = rest.get(from..)?;
        let length = digits.iter().take_while(|seen| char::from(seen.byte).is_digit(base)).count();
        let char = char::from_u32(number(&digits[..length], base)?)?;
        let has_end = digits.get(length).is_some_and(|seen| seen.byte == b';');
        return Some((Escaped::Char(char), 1 + from + length + usize::from(has_end)));
    }
    let length = rest.iter().take(8).position(|seen| seen.byte == b';')?;
    let name: Vec<u8> = rest[..length].iter().map(|seen| seen.byte).collect();
    let char = match &*name {
        b"amp" => '&',
        b"lt" => '<',
        b"gt" => '>',
        b"quot" => '"',
        b"apos" => '\'',
        b"sol" => '/',
        b"plus" => '+',
        b"equals" => '=',
        b"nbsp" => ' ',
        _ => return None,
    };
    Some((Escaped::Char(char), length + 2))
}

#[cfg(test)]
mod tests {
    use base64::prelude::BASE64_STANDARD;
    use proptest::strategy::Strategy;

    use super::*;
    use crate::tests::effort::assert_takes_little;

    fn html(text: &str) -> String {
        text.replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('"', "&quot;")
            .replace('/', "&#x2F;")
    }

    /// Each way in which this could be written, alone and among other text.
    fn forms(secret: &str) -> Vec<String> {
        let percent = |byte: u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        };
        let percent: String = secret.bytes().map(percent).collect();
        let json = serde_json::to_string(secret).unwrap();
        let json = json[1..json.len() - 1].to_owned();
        let units = secret.encode_utf16();
        let units = units.fold(String::new(), |all, unit| format!("{all}\\u{unit:04x}"));
        let form: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        let decimal = secret.chars();
        let decimal =
            decimal.fold(String::new(), |all, char| format!("{all}&#{};", u32::from(char)));
        let mut forms = vec![
            secret.to_owned(),
            percent.to_lowercase_escapes(),
            percent.clone(),
            form.clone(),
            json.replace('/', "\\/"),
            json,
            units,
            html(secret),
            decimal,
            html(&percent),
            serde_json::to_string(&html(secret)).unwrap(),
        ];
        for text in [secret.to_owned(), format!("id:{secret}"), format!("i:{secret}"), form] {
            forms.push(BASE64_STANDARD.encode(&text));
            forms.push(BASE64_URL_SAFE_NO_PAD.encode(&text));
            forms.push(BASE64_STANDARD.encode(format!("{text} and more")));
        }
        forms
    }

    trait Lowercase {
        fn to_lowercase_escapes(&self) -> String;
    }

    impl Lowercase for String {
        fn to_lowercase_escapes(&self) -> String {
            let mut parts = self.split('%');
            let first = parts.next().unwrap_or_default().to_owned();
            parts.fold(first, |text, part| text + "%" + &part[..2].to_lowercase() + &part[2..])
        }
    }

    #[test]
    fn a_secret_is_recognized_in_each_form_in_which_it_can_be_repeated() {
        for secret in [
            "AbC/dEf+gHi012345==",
            "p+s3cr3t/ä",
            "with a space & <\"quotes\"> \\",
            "100%25 of %zz",
            "🔑🔑🔑-key",
            "eyJhbGciOiJub25lIn0.eyJzdWIiOiJtZSJ9.pl4nted-s1gnature",
        ] {
            for shown in forms(secret) {
                for words in [
                    shown.clone(),
                    format!("token={shown}&x=1"),
                    format!("bad ({shown}), {shown}."),
                    format!("{}{shown}", "x, ".repeat(50)),
                ] {
                    let fit = fit(&words, &[secret], 1_024);
                    assert!(fit.contains("[redacted]"), "{secret}: {words}: {fit}");
                    assert!(!fit.contains(&shown), "{secret}: {words}: {fit}");
                }
            }
        }
        let jwt = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJtZSJ9.pl4nted-s1gnature";
        assert_eq!(fit("the signature pl4nted-s1gnature", &[jwt], 99), "the signature [redacted]");
        assert_eq!(fit("token=AbC%2FdEf&x", &["AbC/dEf"], 99), "token=[redacted]&x");
        assert_eq!(fit("s3c\u{200b}r\net!", &["s3cret"], 99), "[redacted]!");
    }

    #[test]
    fn a_secret_is_recognized_in_forms_that_no_encoder_should_write() {
        let secret = "p+s3cr3t/ü-and-mörë";
        let numbered = |form: &dyn Fn(u32) -> String| {
            secret.chars().map(|char| form(u32::from(char))).collect::<Vec<_>>().concat()
        };
        let latin1 = |char: char| match char {
            'a'..='z' | '0'..='9' => char.to_string(),
            other => format!("%{:02X}", u32::from(other)),
        };
        for shown in [
            numbered(&|code| format!("&#{code}")),
            numbered(&|code| format!("&#{code:0>30};")),
            numbered(&|code| format!("&#x{code:0>30x};")),
            numbered(&|code| format!("&#X{code:0>3X}")).replace("&#X02D", "-"),
            secret.chars().map(latin1).collect(),
            secret.replace(|char: char| !char.is_ascii(), "\u{fffd}"),
        ] {
            let words = format!("the secret ({shown}), no");
            assert_eq!(fit(&words, &[secret], 1_024), "the secret ([redacted]), no", "{shown}");
        }
        // Decomposed, or whatever else: what is ASCII of it is gone.
        let decomposed = "p+s3cr3t/u\u{308}-and-mo\u{308}re\u{308}";
        assert_eq!(fit(decomposed, &[secret], 99), "[redacted]e\u{308}");
        assert_eq!(fit("s3cr3t, p+s3cr3t/ and more", &[secret], 99), "s3cr3t, [redacted] and more");
    }

    #[test]
    fn a_secret_is_recognized_whatever_has_become_of_its_letters() {
        let secret = "pä-ßö-é7q-xz9";
        for shown in [
            "pÃ¤-Ã\u{9f}Ã¶-Ã©7q-xz9",
            "pÃ¤-ÃŸÃ¶-Ã©7q-xz9",
            "p?-??-?7q-xz9",
            "p??-????-??7q-xz9",
            "p--7q-xz9",
            "pa\u{308}-ßo\u{308}-e\u{301}7q-xz9",
            "p&auml;-&szlig;&ouml;-&eacute;7q-xz9",
            "p\\xc3\\xa4-\\xc3\\x9f\\xc3\\xb6-\\xc3\\xa97q-xz9",
            "pae-ssoe-e7q-xz9",
        ] {
            let words = format!("the secret ({shown}), no");
            assert_eq!(fit(&words, &[secret], 1_024), "the secret ([redacted]), no", "{shown}");
        }
        for words in ["p - 7q-xz9", "p-ä-é7q-xz", "the po-box of 7q"] {
            assert_eq!(fit(words, &[secret], 1_024), words);
        }
        // A byte of Latin-1 is no such mark.
        for secret in ["ÿ".repeat(8), "%FF".repeat(8), "aÿbÿcÿdÿ".into()] {
            let shown = secret.replace('ÿ', "%FF");
            assert_eq!(fit(&format!("{shown}."), &[&secret], 99), "[redacted].", "{secret}");
            assert_eq!(fit("%FF, a%FF", &[&secret], 99), "%FF, a%FF", "{secret}");
        }
        assert_eq!(fit("für, fr, fur", &["für"], 99), "[redacted], fr, fur");
        let words = "a b c d e f g h i";
        assert_eq!(fit(words, &["ä€ßüöé漢字", "ab€", "a€b€c€d€"], 99), words);
    }

    #[test]
    fn a_part_that_is_cut_off_a_secret_shows_no_rest() {
        for (secret, shown) in [
            ("QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "QWxhZGRpbjpvcGVuIHNlc2FtZQ"),
            ("\"AbCdEfGh12345678\"", "AbCdEfGh12345678"),
            ("'AbCdEfGh12345678=='", "AbCdEfGh12345678"),
            ("AbCdEfGh12345678\nXyZ987654321\n", "XyZ987654321"),
        ] {
            assert_eq!(
                fit(&format!("got {shown} x"), &[secret], 99),
                "got [redacted] x",
                "{secret}"
            );
        }
    }

    #[test]
    fn a_short_secret_counts_as_a_whole_word_only() {
        for (words, expected) in [
            ("invalid_client: invalid", "invalid_client: [redacted]"),
            ("invalidated, reinvalid", "invalidated, reinvalid"),
            ("secret=invalid", "secret=[redacted]"),
            ("(%69nvalid)", "([redacted])"),
            ("aW52YWxpZA== is base64 of it", "[redacted] is base64 of it"),
        ] {
            assert_eq!(fit(words, &["invalid"], 99), expected);
        }
        let words = "an error has occurred";
        assert_eq!(fit(words, &["a", "", " ", "e"], 99), words);
    }

    #[test]
    fn what_shows_nothing_or_looks_alike_hides_no_secret() {
        let secret = "s3cr3t Val+ue=with";
        for between in
            ["\u{e000}", "\u{a0}", "\u{2009}", "\u{3000}", "\u{f0000}", "\u{ffff}", "\u{200b}"]
        {
            let split: String =
                secret.chars().flat_map(|char| [char.to_string(), between.into()]).collect();
            let escaped =
                split.bytes().fold(String::new(), |all, byte| format!("{all}%{byte:02x}"));
            let units = split.encode_utf16();
            let units = units.fold(String::new(), |all, unit| format!("{all}\\u{unit:04x}"));
            for shown in [split, escaped, units] {
                let fit = fit(&format!("x {shown}."), &[secret], 1_024);
                assert!(fit.starts_with("x [redacted]") && fit.len() < 30, "{between:?}: {fit}");
            }
            let odd = format!("s3cr3t{between}Value");
            assert_eq!(fit(&format!("x {odd}."), &[&odd], 99), "x [redacted].", "{between:?}");
        }
        let full: String = secret.replace(' ', "\u{3000}").chars().map(full_width).collect();
        for (shown, secret) in [
            (full.as_str(), secret),
            (&full, &full),
            (secret, &full),
            (&secret.replace(' ', "\u{a0}"), secret),
            (&secret.to_uppercase(), secret),
        ] {
            assert_eq!(fit(&format!("x {shown}."), &[secret], 99), "x [redacted].", "{shown}");
        }
    }

    fn full_width(char: char) -> char {
        match char {
            '!'..='~' => char::from_u32(u32::from(char) + 0xfee0).unwrap(),
            other => other,
        }
    }

    #[test]
    fn only_what_is_visible_is_kept() {
        let words =
            "a\u{1b}[31m\u{202e}b\u{200d}\u{feff}\u{ad}\u{2066}\u{e0041}\u{fe0f}\u{3164}\u{85}ü🔑";
        assert_eq!(fit(words, &[], 99), "a[31mbü🔑");
    }

    #[test]
    fn words_are_cut_to_length_and_no_secret_with_them() {
        assert_eq!(fit(&"ü".repeat(300), &[], 256), "ü".repeat(256) + "…");
        assert_eq!(fit(&"ü".repeat(256), &[], 256), "ü".repeat(256));
        let secret = "0123456789abcdef".repeat(64);
        for before in [0, 10, 30, 39, 40, 41, 160, 200] {
            for shown in [secret.clone(), secret.replace('0', "%30").replace('a', "%61")] {
                let words = format!("{}{shown}{shown}", " ".repeat(before));
                let fit = fit(&words, &[&secret], 40);
                assert!(!fit.contains("123"), "{before}: {fit}");
                assert!(fit.chars().count() <= 41, "{fit}");
            }
        }
    }

    /// Somebody may have cut it, and a long one that begins everywhere costs no more than a short one.
    #[test]
    fn a_long_secret_is_recognized_by_its_beginning_and_in_little_time() {
        let secret = "a".repeat(100_000) + "b";
        for words in ["a".repeat(500_000), "%61".repeat(200_000), "a".repeat(300)] {
            assert_takes_little(&words[..10], || {
                let fit = fit(&format!("x {words} y"), &[&secret], 1_024);
                assert!(fit.starts_with("x [redacted]") && !fit.contains("aa"), "{fit}");
            });
        }
        let odd = "ä".repeat(400);
        assert_eq!(fit(&format!("{}ãx", "ä".repeat(300)), &[&odd], 1_024), "[redacted]x");
        let odd = format!("x{odd}");
        assert_eq!(fit(&format!("x{}ãx", "ä".repeat(300)), &[&odd], 1_024), "[redacted]x");
        assert_eq!(fit(&"a".repeat(200), &[&secret], 1_024), "a".repeat(200), "it may be any word");
    }

    fn odd_text() -> impl Strategy<Value = String> {
        const PIECES: &[&str] = &[
            "\\", "b", "\\b", "\\n", "\\u", "0000", "d83d", "\\u200b", "\\x", "%", "00", "ff",
            "%0a", "%c3", "%a4", "&", "#", "&#0;", "&#xad;", ";", "&quot;", "é", "©", "Ã", "ä",
            "🔑", "ÿ", "\u{ad}", "\n", " ", "+", ".", "=", "w6k", "qQ", "abcdefgh",
        ];
        let piece = proptest::sample::select(PIECES);
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    #[test]
    fn a_secret_may_begin_within_a_letter_or_be_nothing_but_escapes() {
        assert_eq!(fit("an éabcdefgh", &["©abcdefgh"], 99), "an [redacted]");
        assert_eq!(fit("it is \\b, an escape", &["\\b\n"], 99), "it is [redacted], an escape");
        assert_eq!(fit("it is \\n, another", &["\\b"], 99), "it is \\n, another");
    }

    proptest::proptest! {
        #[test]
        fn any_words_are_fit_without_panic_or_secret(
            secret in "[ -~äß€🔑]{8,40}", before in ".{0,40}", after in ".{0,40}", form in 0_usize..20,
        ) {
            let visible: String = secret.chars().filter(|char| is_visible(*char)).collect();
            let forms = forms(visible.trim());
            let shown = &forms[form % forms.len()];
            if visible.trim().chars().count() >= SHORT_SECRET {
                let fit = fit(&format!("{before} {shown} {after}"), &[&secret], 1_024);
                proptest::prop_assert!(fit.contains("[redacted]"), "{}", fit);
            }
        }

        /// Both of pieces that stand for nothing, for half of a letter, or for others once they are undone.
        #[test]
        fn no_secret_and_no_words_make_a_panic(
            secrets in proptest::collection::vec(odd_text(), 1..4), words in odd_text(), longest in 0_usize..40,
        ) {
            let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
            let _ = fit(&words, &secrets, longest);
        }
    }
}
