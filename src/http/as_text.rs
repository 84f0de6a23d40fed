//! Files that are not written in UTF-8: keys in DER and in PKCS #12, and what Windows writes.

use base64::prelude::{BASE64_STANDARD, Engine};

/// The text of a file. A private key in DER is given in base64, as whoever reads keys takes it; an error completes a
/// sentence about the file.
pub(crate) fn as_text(bytes: Vec<u8>) -> Result<String, &'static str> {
    if let Some(text) = utf16(&bytes) {
        return Ok(text);
    }
    match String::from_utf8(bytes) {
        // Some editors mark a file as UTF-8 so.
        Ok(text) => Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)),
        Err(error) if is_private_der(error.as_bytes()) => {
            Ok(BASE64_STANDARD.encode(error.as_bytes()))
        }
        Err(error) if error.as_bytes().starts_with(&[0x30]) => Err(
            "it is DER, and not text: a certificate is converted with `openssl x509 -inform DER -in FILE -out PEM`",
        ),
        Err(_) => Err("it is not text (UTF-8)"),
    }
}

/// By its mark, or since nothing else has a zero in every other byte.
fn utf16(bytes: &[u8]) -> Option<String> {
    let (pairs, []) = bytes.as_chunks::<2>() else { return None };
    let has_zeros = |nth: usize| pairs.len() > 1 && pairs.iter().all(|pair| pair[nth] == 0);
    let units: Vec<u16> = match bytes {
        [0xff, 0xfe, ..] => pairs[1..].iter().map(|pair| u16::from_le_bytes(*pair)).collect(),
        [0xfe, 0xff, ..] => pairs[1..].iter().map(|pair| u16::from_be_bytes(*pair)).collect(),
        _ if has_zeros(1) => pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect(),
        _ if has_zeros(0) => pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect(),
        _ => return None,
    };
    String::from_utf16(&units).ok()
}

/// PKCS #8, PKCS #1, SEC 1 and PKCS #12 are all a sequence as long as the whole, which begins with its
/// version; an encrypted PKCS #8 begins with what it is encrypted by. (Public keys and certificates begin with another
/// sequence.)
pub(crate) fn is_private_der(bytes: &[u8]) -> bool {
    /// PKCS #5 (RFC 8018 appendix A).
    const ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5];
    let (length, inner) = match bytes {
        // Its end is marked (BER).
        [0x30, 0x80, inner @ ..] => (inner.len(), inner),
        [0x30, length @ 0..=0x7f, inner @ ..] | [0x30, 0x81, length, inner @ ..] => {
            (usize::from(*length), inner)
        }
        [0x30, 0x82, high, low, inner @ ..] => {
            (usize::from(u16::from_be_bytes([*high, *low])), inner)
        }
        _ => return false,
    };
    let is_encrypted = || {
        let start = &inner[..inner.len().min(24)];
        start[0] == 0x30 && start.windows(ENCRYPTION.len()).any(|part| part == ENCRYPTION)
    };
    length == inner.len()
        && inner.len() > 16
        && (inner.starts_with(&[0x02, 0x01]) || is_encrypted())
}
