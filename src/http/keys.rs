//! The client's own keys, and how they sign (RFC 7515, RFC 7518, RFC 8037).
//!
//! Written on the crypto library that TLS brings along anyway, and with `serde_json`: a few dozen lines,
//! and no crate more. The usual JWT library takes its crypto from a setting of the whole process and
//! panics where another crate has chosen differently, which a library must not risk for its users; and
//! it reads no private JWK.

use std::fmt;
use std::str::FromStr;

use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use rustls::pki_types::pem::{PemObject, SectionKind};
use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;
use serde_json::Value;
use url::form_urlencoded;

use super::as_text::is_private_der;
use super::blanks::trimmed;
use super::crypto::ec_key_pair;
use super::crypto::library::digest::{SHA256, digest};
use super::crypto::library::error::KeyRejected;
use super::crypto::library::hmac;
use super::crypto::library::rand::SystemRandom;
use super::crypto::library::rsa::{KeyPairComponents, PublicKeyComponents};
use super::crypto::library::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use super::jwt::{self, Object};
use super::pem::tidied;
use crate::error::ConfigError;

/// How a key signs (RFC 7518 §3.1, RFC 8037 §3.1). It must fit the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JwtAlgorithm {
    /// RSA (PKCS #1 v1.5) with SHA-256: the default for an RSA key.
    Rs256,
    /// RSA (PKCS #1 v1.5) with SHA-384.
    Rs384,
    /// RSA (PKCS #1 v1.5) with SHA-512.
    Rs512,
    /// RSA (PSS) with SHA-256.
    Ps256,
    /// The only one for a key on the curve P-256.
    Es256,
    /// The only one for a key on the curve P-384.
    Es384,
    /// The only one for an Ed25519 key.
    EdDsa,
}

impl JwtAlgorithm {
    const ALL: [Self; 7] =
        [Self::Rs256, Self::Rs384, Self::Rs512, Self::Ps256, Self::Es256, Self::Es384, Self::EdDsa];

    /// Its name in a JWT's header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }
}

impl fmt::Display for JwtAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// By its name in a JWT's header.
impl FromStr for JwtAlgorithm {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        Self::ALL.into_iter().find(|known| known.name() == trimmed(name)).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            ConfigError::new("algorithm", format!("is {name:?}, but must be one of {known}"))
        })
    }
}

/// A private key, and how it signs.
pub(super) struct SigningKey {
    pair: Pair,
    algorithm: JwtAlgorithm,
    /// As a JWK names itself.
    id: Option<String>,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair, Curve),
    Ed(Ed25519KeyPair),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
}

impl Curve {
    /// RFC 7518 §6.2.1.1.
    fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
        }
    }

    /// How many bytes a coordinate has.
    fn size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }

    /// RFC 5480 §2.1.1.1.
    fn oid(self) -> &'static [u8] {
        match self {
            Self::P256 => &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7],
            Self::P384 => &[0x2b, 0x81, 4, 0, 0x22],
        }
    }

    fn signing(self) -> &'static EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            Self::P384 => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
        }
    }
}

const CURVES: [Curve; 2] = [Curve::P256, Curve::P384];

/// What is wrong with a key. Completes a sentence that begins with its name, and never holds a part
/// of it.
type Problem = String;

impl SigningKey {
    /// A key in PEM (PKCS #8, PKCS #1 or SEC 1) or as a JWK (RFC 7517).
    pub(super) fn parse(text: &str, wanted: Option<JwtAlgorithm>) -> Result<Self, Problem> {
        let text = tidied(text);
        let (pair, named, id) = if text.starts_with(['{', '[']) {
            from_jwk(&text)?
        } else if text.contains("-----BEGIN ") {
            (from_pem(&text)?, None, None)
        } else if let Some(pair) = from_base64(&text) {
            (pair?, None, None)
        } else if text.starts_with("PuTTY-User-Key-File") {
            return Err(
                "is in PuTTY's own format: convert it with `puttygen KEY -O private-openssh-new`, \
                        then with `ssh-keygen -p -m PKCS8 -f KEY`"
                    .into(),
            );
        } else if text.to_ascii_lowercase().contains("<rsakeyvalue>") {
            return Err("is an RSA key in XML: convert it to PEM".into());
        } else if holds_private_key(&text) {
            return Err(
                "is a private key, but was mangled on its way: give all of its file, from \
                 \"-----BEGIN PRIVATE KEY-----\" on"
                    .into(),
            );
        } else {
            return Err(
                "is no private key: give one in PEM (\"-----BEGIN PRIVATE KEY-----\") or as \
                        a JWK ({\"kty\": …})"
                    .into(),
            );
        };
        if let (Some(wanted), Some(named)) = (wanted, named)
            && wanted != named
        {
            return Err(format!("is a JWK for {named}, but {wanted} is set: let them agree"));
        }
        let algorithm = wanted.or(named).unwrap_or(pair.algorithms()[0]);
        if !pair.algorithms().contains(&algorithm) {
            let fitting: Vec<_> = pair.algorithms().iter().map(|fitting| fitting.name()).collect();
            return Err(format!(
                "is {}, which cannot sign with {algorithm}: use {}",
                pair.kind(),
                fitting.join(", ")
            ));
        }
        Ok(Self { pair, algorithm, id })
    }

    /// A new one, for ES256.
    pub(super) fn generate() -> Result<Self, Problem> {
        let random = SystemRandom::new();
        let failed = |_| "could not be made: the system gives no randomness".to_owned();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(Curve::P256.signing(), &random).map_err(failed)?;
        let pair = from_pkcs8(pkcs8.as_ref())?;
        Ok(Self { pair, algorithm: JwtAlgorithm::Es256, id: None })
    }

    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// A signed JWT. `header` says what there is beside `alg`.
    pub(super) fn jwt(&self, header: Object, claims: Object) -> Result<SecretString, Problem> {
        let sign = |input: &[u8]| self.sign(input).ok_or_else(|| "could not sign".to_owned());
        jwt::encode(self.algorithm.name(), header, claims, sign)
    }

    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let padding: &dyn signature::RsaEncoding = match self.algorithm {
                    JwtAlgorithm::Ps256 => &signature::RSA_PSS_SHA256,
                    JwtAlgorithm::Rs384 => &signature::RSA_PKCS1_SHA384,
                    JwtAlgorithm::Rs512 => &signature::RSA_PKCS1_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let [n, _] = rsa_public(pair);
                let mut signature = vec![0; n.len()];
                pair.sign(padding, &random, message, &mut signature).ok()?;
                Some(signature)
            }
            Pair::Ec(pair, _) => Some(pair.sign(&random, message).ok()?.as_ref().to_vec()),
            Pair::Ed(pair) => Some(pair.sign(message).as_ref().to_vec()),
        }
    }

    /// The public key as a JWK, with the members that it must have.
    pub(super) fn public_jwk(&self) -> Object {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let members = match &self.pair {
            Pair::Rsa(pair) => {
                let [n, e] = rsa_public(pair);
                vec![("e", encode(e)), ("kty", "RSA".into()), ("n", encode(n))]
            }
            Pair::Ec(pair, curve) => {
                // Uncompressed, after a byte that says so (SEC 1 §2.3.3).
                let (x, y) = pair.public_key().as_ref()[1..].split_at(curve.size());
                let crv = curve.name().into();
                vec![("crv", crv), ("kty", "EC".into()), ("x", encode(x)), ("y", encode(y))]
            }
            Pair::Ed(pair) => {
                let x = encode(pair.public_key().as_ref());
                vec![("crv", "Ed25519".into()), ("kty", "OKP".into()), ("x", x)]
            }
        };
        members.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
    }

    /// RFC 7638: of the JWK with its members in the order of their names, which is how they are kept,
    /// and without a space.
    pub(super) fn thumbprint(&self) -> String {
        sha256(&Value::Object(self.public_jwk()).to_string())
    }
}

/// Padding is cut off before; odd bits at the end are no reason to send a key.
const LENIENT: GeneralPurposeConfig =
    base64::engine::general_purpose::NO_PAD.with_decode_allow_trailing_bits(true);
pub(super) const BASE64_ANY: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
pub(super) const BASE64_URL_ANY: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);

/// Whether this is a private key, or holds one, readable or not: then it is no secret to be sent.
pub(super) fn holds_private_key(text: &str) -> bool {
    /// Packed more often than this, nobody has it by mistake.
    const PACKED: usize = 3;
    is_private_key(text, PACKED)
}

fn is_private_key(text: &str, packed: usize) -> bool {
    let tidied = tidied(text);
    let bare: Zeroizing<String> = Zeroizing::new(tidied.split_whitespace().collect());
    if has_marks(text) || has_marks(&tidied) || is_private_jwk(&tidied) {
        return true;
    }
    let decoded = [
        BASE64_ANY.decode(bare.trim_end_matches('=')).ok(),
        BASE64_URL_ANY.decode(bare.trim_end_matches('=')).ok(),
        hex(&bare),
    ];
    let is_packed = |bytes: Vec<u8>| {
        let bytes = Zeroizing::new(bytes);
        let text = std::str::from_utf8(&bytes).ok().filter(|_| packed > 0);
        is_private_der(&bytes) || text.is_some_and(|text| is_private_key(text, packed - 1))
    };
    let escaped = packed > 0 && text.contains('%') && {
        let whole = Zeroizing::new(format!("k={}", text.replace('+', "%2B")));
        let mut pairs = form_urlencoded::parse(whole.as_bytes());
        pairs.next().is_some_and(|(_, text)| is_private_key(&text, packed - 1))
    };
    escaped || decoded.into_iter().flatten().any(is_packed)
}

/// The first or last line of a key's file, whole or not, in the ways in which programs write them.
fn has_marks(text: &str) -> bool {
    let lower = Zeroizing::new(text.to_ascii_lowercase());
    let is_pem = lower.contains("private key--")
        || lower.contains("-begin ") && lower.contains("private key");
    is_pem
        || ["putty-user-key-file", "age-secret-key-", "<rsakeyvalue>"]
            .iter()
            .any(|mark| lower.contains(mark))
}

/// RFC 7517, at any depth; or what is left of one that is no JSON any more.
fn is_private_jwk(text: &str) -> bool {
    fn is_private(value: &Value) -> bool {
        match value {
            Value::Object(object) => {
                let kind = object.get("kty").and_then(Value::as_str);
                let has_private =
                    matches!(kind, Some("RSA" | "EC" | "OKP")) && object.contains_key("d");
                has_private || object.values().any(is_private)
            }
            Value::Array(values) => values.iter().any(is_private),
            _ => false,
        }
    }
    if !text.contains("kty") {
        return false;
    }
    serde_json::from_str(text.trim()).map_or_else(
        |_| {
            let bare: Zeroizing<String> = Zeroizing::new(
                text.chars().filter(|char| !matches!(char, ' ' | '\\' | '\n')).collect(),
            );
            ["\"d\":", "'d':"].iter().any(|member| bare.contains(member))
        },
        |jwk: Value| is_private(&jwk),
    )
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<_>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok()).collect()
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}, [redacted])", self.algorithm)
    }
}

/// A JWT with a shared secret and HS256 (RFC 7518 §3.2).
pub(super) fn hs256(secret: &str, header: Object, claims: Object) -> Result<SecretString, Problem> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let sign = |input: &[u8]| Ok(hmac::sign(&key, input).as_ref().to_vec());
    jwt::encode("HS256", header, claims, sign)
}

/// As `ath` and `jkt` want it.
pub(super) fn sha256(text: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes()))
}

impl Pair {
    fn kind(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "an RSA key",
            Self::Ec(_, Curve::P256) => "a key on the curve P-256",
            Self::Ec(_, Curve::P384) => "a key on the curve P-384",
            Self::Ed(_) => "an Ed25519 key",
        }
    }

    /// The default first.
    fn algorithms(&self) -> &'static [JwtAlgorithm] {
        use JwtAlgorithm::{EdDsa, Es256, Es384, Ps256, Rs256, Rs384, Rs512};
        match self {
            Self::Rsa(_) => &[Rs256, Rs384, Rs512, Ps256],
            Self::Ec(_, Curve::P256) => &[Es256],
            Self::Ec(_, Curve::P384) => &[Es384],
            Self::Ed(_) => &[EdDsa],
        }
    }
}

const ENCRYPTED: &str = "is encrypted: decrypt it with `openssl pkey -in KEY -out DECRYPTED`";

/// By PKCS #8, or in the way that came before it (RFC 1421).
fn is_encrypted(text: &str) -> bool {
    text.contains("ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED")
}

/// The first private key of it: a certificate may be in the same file.
fn from_pem(text: &str) -> Result<Pair, Problem> {
    let mut public = false;
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
        // Its own words could hold a part of the key.
        let (kind, der) = section.map_err(|_| {
            if is_encrypted(text) { ENCRYPTED } else { "is broken PEM: is it whole?" }
        })?;
        let der = Zeroizing::new(der);
        match kind {
            SectionKind::PrivateKey => return from_pkcs8(&der),
            SectionKind::RsaPrivateKey => return from_pkcs1(&der),
            SectionKind::EcPrivateKey => return from_sec1(&der, None),
            _ => public = true,
        }
    }
    Err(if is_encrypted(text) {
        ENCRYPTED.into()
    } else if text.contains("OPENSSH PRIVATE KEY") {
        "is in OpenSSH's own format: convert it with `ssh-keygen -p -m PKCS8 -f KEY`".into()
    } else if text.contains("PGP PRIVATE KEY") {
        "is a PGP key, which signs no JWT: make one with `openssl genpkey -algorithm EC -pkeyopt \
         ec_paramgen_curve:P-256 -out KEY`"
            .into()
    } else if text.contains("DSA PRIVATE KEY") {
        "is a DSA key, which signs no JWT: use RSA, P-256, P-384 or Ed25519".into()
    } else if public {
        "is a public key or a certificate: give the private key".into()
    } else {
        "is PEM, but of something else than a private key".into()
    })
}

/// What is between the marks of PEM alone, as some variables have it. Which kind it is, it says itself.
fn from_base64(text: &str) -> Option<Result<Pair, Problem>> {
    let bare: Zeroizing<String> = Zeroizing::new(text.split_whitespace().collect());
    let bare = bare.trim_end_matches('=');
    let decoded = [BASE64_ANY.decode(bare).ok(), BASE64_URL_ANY.decode(bare).ok(), hex(bare)];
    let mut decoded = decoded.into_iter().flatten().map(Zeroizing::new);
    let der = decoded.find(|der| is_private_der(der))?;
    let header = if der[1] < 0x81 { 2 } else { usize::from(der[1]) - 0x7e };
    match der.get(header..) {
        Some([2, 1, 3, ..]) => {
            return Some(Err(
                "is PKCS #12: convert it with `openssl pkcs12 -in KEY -nodes -nocerts -out PEM`"
                    .into(),
            ));
        }
        Some([0x30, ..]) => {
            return Some(Err(
                "is encrypted: decrypt it with `openssl pkey -inform DER -in KEY -out \
                             DECRYPTED`"
                    .into(),
            ));
        }
        _ => {}
    }
    let other = |problem| from_pkcs1(&der).or_else(|_| from_sec1(&der, None)).map_err(|_| problem);
    Some(from_pkcs8(&der).or_else(other))
}

/// RFC 5208, RFC 5958: what kind of key it is, and the key inside.
fn from_pkcs8(der: &[u8]) -> Result<Pair, Problem> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
    const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
    const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
    let parts = || {
        let mut info = Der(der).enter(SEQUENCE)?;
        info.take(INTEGER)?;
        let mut kind = info.enter(SEQUENCE)?;
        Some((kind.take(OID)?, kind.take(OID), info.take(OCTET_STRING)?))
    };
    match parts().ok_or("is broken: no PKCS #8 is in it")? {
        (RSA, _, key) => from_pkcs1(key),
        (EC, Some(curve), key) => from_sec1(key, Some(curve)),
        (ED25519, _, key) => {
            let seed = Der(key).take(OCTET_STRING).ok_or("is broken: no Ed25519 key is in it")?;
            Ed25519KeyPair::from_seed_unchecked(seed).map(Pair::Ed).map_err(rejected)
        }
        _ => Err("is of a kind that is not known: use RSA, P-256, P-384 or Ed25519".into()),
    }
}

/// The modulus and the exponent, of which the library gives DER (RFC 8017 appendix A.1.1).
fn rsa_public(pair: &RsaKeyPair) -> [&[u8]; 2] {
    let mut numbers = Der(pair.public_key().as_ref()).enter(SEQUENCE);
    [(); 2].map(|()| {
        let number = numbers.as_mut().and_then(|numbers| numbers.take(INTEGER)).unwrap_or_default();
        // A zero before it says that the number is positive.
        number.strip_prefix(&[0]).unwrap_or(number)
    })
}

fn from_pkcs1(der: &[u8]) -> Result<Pair, Problem> {
    RsaKeyPair::from_der(der).map(Pair::Rsa).map_err(rejected)
}

/// RFC 5915. The curve is named inside or, in PKCS #8, outside.
fn from_sec1(der: &[u8], curve: Option<&[u8]>) -> Result<Pair, Problem> {
    let parts = || {
        let mut key = Der(der).enter(SEQUENCE)?;
        key.take(INTEGER)?;
        let private = key.take(OCTET_STRING)?;
        let inside = key.enter(CONTEXT_0).and_then(|mut name| name.take(OID));
        // A bit string begins with how many bits are unused.
        let public = key.enter(CONTEXT_1).and_then(|mut key| key.take(BIT_STRING)?.get(1..));
        Some((private, inside, public))
    };
    let (private, inside, public) = parts().ok_or("is broken: no EC key is in it")?;
    let public =
        public.ok_or("lacks its public half: add it with `openssl ec -in KEY -out WHOLE`")?;
    let curve = CURVES.into_iter().find(|known| curve.or(inside) == Some(known.oid()));
    let curve = curve.ok_or("is on a curve that is not known: use P-256 or P-384")?;
    from_ec_parts(curve, private, public)
}

fn from_ec_parts(curve: Curve, private: &[u8], public: &[u8]) -> Result<Pair, Problem> {
    ec_key_pair(curve.signing(), private, public)
        .map(|pair| Pair::Ec(pair, curve))
        .map_err(rejected)
}

/// RFC 7517, RFC 7518 §6, RFC 8037 §2. With its `alg` and `kid`, if it has them.
fn from_jwk(text: &str) -> Result<(Pair, Option<JwtAlgorithm>, Option<String>), Problem> {
    // Its own words could hold a part of the key.
    let jwk: Value =
        serde_json::from_str(text).map_err(|_| "begins like a JWK, but is not JSON")?;
    let jwk = only_jwk(jwk)?;
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let number = |name: &str| {
        let value = text(name).ok_or_else(|| format!("is a JWK without {name:?}"))?;
        // Some write the other alphabet.
        let value = value.trim_end_matches('=').replace('+', "-").replace('/', "_");
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(&*Zeroizing::new(value));
        let bytes = bytes.map_err(|_| format!("is a JWK whose {name:?} is not base64url"))?;
        Ok::<_, Problem>(Zeroizing::new(bytes))
    };
    let kind = text("kty").ok_or("is a JWK without \"kty\"")?;
    if matches!(kind, "RSA" | "EC" | "OKP") && text("d").is_none() {
        return Err("is a public key, without \"d\": give the private key".into());
    }
    let pair = match (kind, text("crv")) {
        ("RSA", _) => {
            let number = |name| {
                let bytes = number(name)?;
                let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                Ok::<_, Problem>(Zeroizing::new(bytes[zeros..].to_vec()))
            };
            let components = KeyPairComponents {
                public_key: PublicKeyComponents { n: number("n")?, e: number("e")? },
                d: number("d")?,
                p: number("p")?,
                q: number("q")?,
                dP: number("dp")?,
                dQ: number("dq")?,
                qInv: number("qi")?,
            };
            RsaKeyPair::from_components(&components).map(Pair::Rsa).map_err(rejected)?
        }
        ("EC", Some(name)) => {
            let curve = CURVES.into_iter().find(|known| known.name() == name);
            let curve = curve.ok_or("is on a curve that is not known: use P-256 or P-384")?;
            // As long as the curve's (RFC 7518 §6.2.1.2), but some leave out the zeros before it.
            let number = |name| {
                let bytes = number(name)?;
                let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                let missing = curve.size().saturating_sub(bytes.len() - zeros);
                Ok::<_, Problem>(Zeroizing::new([&vec![0; missing], &bytes[zeros..]].concat()))
            };
            let (d, x, y) = (number("d")?, number("x")?, number("y")?);
            from_ec_parts(curve, &d, &[&[4], &**x, &**y].concat())?
        }
        ("OKP", Some("Ed25519")) => {
            let (d, x) = (number("d")?, number("x")?);
            Ed25519KeyPair::from_seed_and_public_key(&d, &x).map(Pair::Ed).map_err(rejected)?
        }
        _ => return Err("is of a kind that is not known: use RSA, P-256, P-384 or Ed25519".into()),
    };
    let named = match text("alg") {
        None => None,
        Some(name) => {
            Some(name.parse().map_err(|_| format!("is a JWK for {name:?}, which is not known"))?)
        }
    };
    Ok((pair, named, text("kid").map(str::to_owned)))
}

/// The one that is in it: alone, or as programs hand keys about.
fn only_jwk(value: Value) -> Result<Object, Problem> {
    match value {
        Value::Array(keys) if keys.len() == 1 => keys
            .into_iter()
            .next()
            .map_or_else(|| Err("is a set of keys: give one of them".into()), only_jwk),
        Value::Array(_) => Err("is a set of keys: give one of them".into()),
        Value::Object(mut object) => {
            let inner = ["keys", "jwk"].into_iter().find_map(|name| object.remove(name));
            inner.map_or(Ok(object), only_jwk)
        }
        _ => Err("begins like a JWK, but has none in it".into()),
    }
}

/// The library's words are about the key's form, never of what is in it.
fn rejected(error: KeyRejected) -> Problem {
    match error.to_string().as_str() {
        "TooSmall" => {
            "is an RSA key of fewer than 2,048 bits: make a longer one with `openssl genpkey \
            -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out KEY`"
                .into()
        }
        error => format!("cannot be used ({error})"),
    }
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const CONTEXT_0: u8 = 0xa0;
const CONTEXT_1: u8 = 0xa1;

/// What is left of some DER (X.690 §8.1): as much as the frames of a key need.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// What is in the next element, if it is of this kind.
    fn take(&mut self, kind: u8) -> Option<&'a [u8]> {
        let (&[tag, length], rest) = self.0.split_first_chunk()?;
        if tag != kind {
            return None;
        }
        let (length, rest) = match length {
            0..=0x7f => (usize::from(length), rest),
            0x81 => (usize::from(*rest.first()?), &rest[1..]),
            0x82 => {
                let (length, rest) = rest.split_first_chunk()?;
                (usize::from(u16::from_be_bytes(*length)), rest)
            }
            // No key is that long.
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(content)
    }

    fn enter(&mut self, kind: u8) -> Option<Self> {
        self.take(kind).map(Self)
    }
}

#[cfg(test)]
mod tests;
