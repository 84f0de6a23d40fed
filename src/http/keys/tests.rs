//! Keys in every form, and what they sign. The known answers were computed with OpenSSL, by way of
//! Node's `crypto`, from the same keys.

use secrecy::ExposeSecret;
use serde_json::json;

use super::super::as_text::as_text;
use super::super::crypto::library::signature::{UnparsedPublicKey, VerificationAlgorithm};
use super::*;

const RSA: &str = include_str!("../../../tests/keys/rsa.pem");
const RSA_PKCS1: &str = include_str!("../../../tests/keys/rsa-pkcs1.pem");
const RSA_JWK: &str = include_str!("../../../tests/keys/rsa.jwk");
const RSA_1024: &str = include_str!("../../../tests/keys/rsa-1024.pem");
const P256: &str = include_str!("../../../tests/keys/p256.pem");
const P256_SEC1: &str = include_str!("../../../tests/keys/p256-sec1.pem");
const P256_JWK: &str = include_str!("../../../tests/keys/p256.jwk");
const P256_PUBLIC: &str = include_str!("../../../tests/keys/p256-public.pem");
const P256_NO_PUBLIC: &str = include_str!("../../../tests/keys/p256-no-public.pem");
const P256_ENCRYPTED: &str = include_str!("../../../tests/keys/p256-encrypted.pem");
const P384: &str = include_str!("../../../tests/keys/p384.pem");
const P384_JWK: &str = include_str!("../../../tests/keys/p384.jwk");
const P521: &str = include_str!("../../../tests/keys/p521.pem");
const ED25519: &str = include_str!("../../../tests/keys/ed25519.pem");
const ED25519_JWK: &str = include_str!("../../../tests/keys/ed25519.jwk");

fn map(value: Value) -> Object {
    serde_json::from_value(value).unwrap()
}

fn jwt(key: &SigningKey) -> String {
    let claims = map(json!({ "iss": "client", "n": 1 }));
    key.jwt(map(json!({ "typ": "JWT" })), claims).unwrap().expose_secret().to_owned()
}

#[test]
fn an_algorithm_is_known_by_its_name() {
    for algorithm in JwtAlgorithm::ALL {
        assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
    }
    let error = "HS256".parse::<JwtAlgorithm>().unwrap_err().to_string();
    assert!(
        error.starts_with("algorithm is \"HS256\", but must be one of RS256, RS384"),
        "{error}"
    );
}

#[test]
fn one_key_is_the_same_in_each_of_its_forms() {
    for (forms, algorithm, thumbprint) in [
        (
            &[RSA, RSA_PKCS1, RSA_JWK][..],
            JwtAlgorithm::Rs256,
            "U-1ZP_x81j1XAI0OEbyMQBKy0on3h8dkP2-j7QLDcCE",
        ),
        (
            &[P256, P256_SEC1, P256_JWK],
            JwtAlgorithm::Es256,
            "T-AZsWuE4WAXwVc_BdkZ57HkO7bGMkt9-qxD2ONVmzs",
        ),
        (&[P384, P384_JWK], JwtAlgorithm::Es384, "cTAVn3oFzbLdY4IHnrewDL013fP8fMfLloJ0mAdcLEE"),
        (
            &[ED25519, ED25519_JWK],
            JwtAlgorithm::EdDsa,
            "F6QxAglcWVmzWC1TegQfe3taVcY752gAXBOpFOLrWAg",
        ),
    ] {
        for form in forms {
            let key = SigningKey::parse(form, None).unwrap();
            assert_eq!((key.algorithm, &*key.thumbprint()), (algorithm, thumbprint));
            assert_eq!(key.id().is_some(), form.starts_with('{'), "only a JWK has a name");
        }
    }
    // RFC 8037 appendix A.3.
    let rfc = r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
        "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    let key = SigningKey::parse(rfc, None).unwrap();
    assert_eq!(key.thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
}

#[test]
fn signatures_are_those_that_openssl_makes() {
    for (key, algorithm, expected) in [
        (RSA, JwtAlgorithm::Rs256, "YtPzwIXEkQJffym_eASY2MdtsEVUY1i17aIRG1cAjvE"),
        (RSA_JWK, JwtAlgorithm::Rs384, "INYcMhh0xcvngYPKSNs7k7Yc0SOc3A3QGx0HwLq1BW8"),
        (RSA_PKCS1, JwtAlgorithm::Rs512, "QdvEtnyWLea2aKunsS-3rqktxC82pM71U81F3niY1fI"),
        (ED25519, JwtAlgorithm::EdDsa, "THXoyqBqQLtCBFeWHnDiulRuBPuet1JMDoeJBfbCpgM"),
    ] {
        let key = SigningKey::parse(key, Some(algorithm)).unwrap();
        assert_eq!(sha256(&jwt(&key)), expected, "{algorithm}");
    }
    let claims = map(json!({ "iss": "client", "n": 1 }));
    let jwt = hs256("a secret", map(json!({ "typ": "JWT" })), claims).unwrap();
    assert_eq!(
        jwt.expose_secret(),
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJjbGllbnQiLCJuIjoxfQ.\
         3baD7UkS_mLRXCB1MNE5DcWjldjJ7tIvIwo9jkkTeWs"
    );
}

/// Their signatures have chance in them, so there is no known answer.
#[test]
fn signatures_with_chance_in_them_verify() {
    for (text, algorithm, verification) in [
        (
            RSA,
            JwtAlgorithm::Ps256,
            &signature::RSA_PSS_2048_8192_SHA256 as &'static dyn VerificationAlgorithm,
        ),
        (P256, JwtAlgorithm::Es256, &signature::ECDSA_P256_SHA256_FIXED),
        (P384, JwtAlgorithm::Es384, &signature::ECDSA_P384_SHA384_FIXED),
    ] {
        let key = SigningKey::parse(text, Some(algorithm)).unwrap();
        let public = match &key.pair {
            Pair::Rsa(pair) => pair.public_key().as_ref(),
            Pair::Ec(pair, _) => pair.public_key().as_ref(),
            Pair::Ed(pair) => pair.public_key().as_ref(),
        };
        let jwt = jwt(&key);
        let (message, signature) = jwt.rsplit_once('.').unwrap();
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
        let public = UnparsedPublicKey::new(verification, public);
        public.verify(message.as_bytes(), &signature).unwrap();
        assert!(public.verify(b"something else", &signature).is_err());
        let header = BASE64_URL_SAFE_NO_PAD.decode(jwt.split('.').next().unwrap()).unwrap();
        let header: Value = serde_json::from_slice(&header).unwrap();
        assert_eq!(header, json!({ "alg": algorithm.name(), "typ": "JWT" }));
    }
}

#[test]
fn a_key_that_will_not_do_says_why_and_not_what_it_is() {
    let jwk = |change: fn(&mut Object)| {
        let mut jwk = serde_json::from_str(P256_JWK).unwrap();
        change(&mut jwk);
        Value::Object(jwk).to_string()
    };
    let half = &P256[..P256.len() / 2];
    let broken = P256.replace("MI", "M!");
    let cut = "-----BEGIN PRIVATE KEY-----\nMIGHAgEA\n-----END PRIVATE KEY-----\n";
    let other = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
    let parameters = "-----BEGIN DH PARAMETERS-----\nAAAA\n-----END DH PARAMETERS-----\n";
    let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n\
               -----END RSA PRIVATE KEY-----\n";
    let public = jwk(|jwk| drop(jwk.remove("d")));
    let no_y = jwk(|jwk| drop(jwk.remove("y")));
    let odd = jwk(|jwk| drop(jwk.insert("d".into(), "not base64!".into())));
    let wrong = jwk(|jwk| drop(jwk.insert("x".into(), "AAAA".into())));
    let named = jwk(|jwk| drop(jwk.insert("alg".into(), "ES384".into())));
    let unknown = jwk(|jwk| drop(jwk.insert("alg".into(), "HS256".into())));
    let oct = jwk(|jwk| drop(jwk.insert("kty".into(), "oct".into())));
    let secp = jwk(|jwk| drop(jwk.insert("crv".into(), "secp256k1".into())));
    for (text, wanted, expected) in [
        ("s3cr3t", None, "is no private key"),
        (half, None, "is broken PEM"),
        (&broken, None, "is broken PEM"),
        (cut, None, "is broken: no PKCS #8"),
        (other, None, "is in OpenSSH's own format: convert it with `ssh-keygen"),
        (parameters, None, "is PEM, but of something else"),
        (old, None, "is encrypted: decrypt it with `openssl pkey -in"),
        ("PuTTY-User-Key-File-3: ssh-rsa", None, "is in PuTTY's own format"),
        (P256_PUBLIC, None, "is a public key or a certificate"),
        (P256_ENCRYPTED, None, "is encrypted"),
        (P256_NO_PUBLIC, None, "lacks its public half: add it with `openssl ec -in"),
        (P521, None, "is on a curve that is not known"),
        (
            RSA_1024,
            None,
            "is an RSA key of fewer than 2,048 bits: make a longer one with `openssl genpkey",
        ),
        (&P256_JWK[..40], None, "is not JSON"),
        (r#"{"keys":[]}"#, None, "is a set of keys"),
        (r#"{"keys":[{"kty":"EC"},{"kty":"EC"}]}"#, None, "is a set of keys"),
        ("MBIwEAYHKoZIzj0CAQYFK4EEACIDAA==", None, "is no private key"),
        (r#"{"d":"s3cr3t"}"#, None, "without \"kty\""),
        (&public, None, "is a public key, without \"d\""),
        (&no_y, None, "without \"y\""),
        (&odd, None, "whose \"d\" is not base64url"),
        (&wrong, None, "cannot be used ("),
        (&named, None, "is a key on the curve P-256, which cannot sign with ES384: use ES256"),
        (&unknown, None, "is a JWK for \"HS256\", which is not known"),
        (&named, Some(JwtAlgorithm::Es256), "is a JWK for ES384, but ES256 is set"),
        (&oct, None, "is of a kind that is not known"),
        (&secp, None, "is on a curve that is not known"),
        (RSA, Some(JwtAlgorithm::Es256), "cannot sign with ES256: use RS256, RS384, RS512, PS256"),
        (ED25519, Some(JwtAlgorithm::Rs256), "is an Ed25519 key, which cannot sign with RS256"),
    ] {
        let problem = SigningKey::parse(text, wanted).unwrap_err();
        assert!(problem.contains(expected), "{expected}: {problem}");
        for secret in ["s3cr3t", &P256[40..60], "not base64!"] {
            assert!(!problem.contains(secret), "{problem}");
        }
    }
}

#[test]
fn a_key_that_was_mangled_on_its_way_is_read() {
    let thumbprint = |text: &str| SigningKey::parse(text, None).unwrap().thumbprint();
    for key in [RSA, RSA_PKCS1, P256, P256_SEC1, P384, ED25519] {
        let indented = format!("  {}", key.replace('\n', "\n  "));
        for mangled in [key.replace('\n', "\\n"), format!("\"{key}\""), indented] {
            assert_eq!(thumbprint(&mangled), thumbprint(key), "{mangled}");
        }
        let last = key.rsplit("-----BEGIN ").next().unwrap();
        let lines = last.lines().skip(1).filter(|line| !line.starts_with("--"));
        let bare = lines.collect::<Vec<_>>().join("\n");
        for mangled in [bare.clone(), bare.replace('\n', ""), format!("'{bare}'\n")] {
            assert_eq!(thumbprint(&mangled), thumbprint(key), "{mangled}");
        }
    }
    for key in [RSA_JWK, P256_JWK, P384_JWK, ED25519_JWK] {
        let padded = key.replace('-', "+").replace('_', "/");
        for mangled in [format!("'{key}'"), serde_json::to_string(key).unwrap()] {
            assert_eq!(thumbprint(&mangled), thumbprint(key), "{mangled}");
        }
        let escaped = key.replace('"', "\\\"");
        for packed in [
            format!(r#"{{"keys":[{key}]}}"#),
            format!("[{key}]"),
            format!(r#"{{"jwk":{key}}}"#),
            BASE64_URL_SAFE_NO_PAD.encode(key),
            escaped,
        ] {
            assert_eq!(thumbprint(&packed), thumbprint(key), "{packed}");
        }
        if !padded.contains("\"kid\"") {
            assert_eq!(thumbprint(&padded), thumbprint(key));
        }
    }
}

fn der(pem: &str) -> Vec<u8> {
    <(SectionKind, Vec<u8>)>::from_pem_slice(pem.as_bytes()).unwrap().1
}

/// A file's bytes, and what is said of it as a key.
#[test]
fn a_key_that_is_no_text_is_read_or_named_with_the_command_that_mends_it() {
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    for pem in [RSA, RSA_PKCS1, P256, P384, ED25519] {
        let hex = der(pem).iter().fold(String::new(), |all, byte| format!("{all}{byte:02x}"));
        let url = BASE64_URL_SAFE_NO_PAD.encode(der(pem));
        let marked = [&[0xff, 0xfe][..], &utf16(pem)].concat();
        for bytes in [der(pem), utf16(pem), marked, hex.into(), url.into()] {
            let text = as_text(bytes).unwrap();
            let thumbprint = |text| SigningKey::parse(text, None).unwrap().thumbprint();
            assert_eq!(thumbprint(&text), thumbprint(pem), "{text}");
            assert!(holds_private_key(&text));
        }
    }
    let p12 = [&[0x30, 0x82, 0, 30, 2, 1, 3, 0x30][..], &[0xfe; 26]].concat();
    let text = as_text(p12).unwrap();
    for (text, expected) in [
        (text, "is PKCS #12: convert it with `openssl pkcs12 -in KEY -nodes -nocerts"),
        (
            as_text(der(&P256_ENCRYPTED.replace("ENCRYPTED ", ""))).unwrap(),
            "is encrypted: decrypt it with `openssl pkey -inform DER -in KEY",
        ),
        (P256.to_lowercase(), "is a private key, but was mangled on its way"),
        (P256.replace("-----BEGIN", "---- BEGIN"), "is a private key, but was mangled on its way"),
        (P256.replace("-----BEGIN PRIVATE KEY-----\n", ""), "is a private key, but was mangled"),
        (P256.replace("PRIVATE KEY", "PGP PRIVATE KEY BLOCK"), "is a PGP key"),
        (P256.replace("PRIVATE KEY", "DSA PRIVATE KEY"), "is a DSA key"),
        ("<RSAKeyValue><D>AA</D></RSAKeyValue>".into(), "is an RSA key in XML"),
    ] {
        let problem = SigningKey::parse(&text, None).unwrap_err();
        assert!(problem.starts_with(expected), "{text}: {problem}");
        // As a secret it is held back by the same rule.
        assert!(holds_private_key(&text), "{text}");
    }
    let certificate = vec![0x30, 0x82, 3, 0, 0x30, 0x82, 2, 0, 0xa0, 3, 2, 1, 2];
    assert!(as_text(certificate).unwrap_err().contains("openssl x509 -inform DER"));
    assert_eq!(as_text(b"s3cr3t\xff".to_vec()), Err("it is not text (UTF-8)"));
}

/// One key in 128 has a coordinate that begins with a zero, which some leave out.
#[test]
fn a_coordinate_without_its_leading_zero_is_read() {
    let mut tried = [false; 2];
    while tried != [true; 2] {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(Curve::P256.signing(), &random).unwrap();
        let Pair::Ec(pair, curve) = from_pkcs8(pkcs8.as_ref()).unwrap() else { panic!() };
        let key =
            SigningKey { pair: Pair::Ec(pair, curve), algorithm: JwtAlgorithm::Es256, id: None };
        let mut jwk = key.public_jwk();
        let mut info = Der(pkcs8.as_ref()).enter(SEQUENCE).unwrap();
        info.take(INTEGER).unwrap();
        info.take(SEQUENCE).unwrap();
        let mut sec1 = Der(info.take(OCTET_STRING).unwrap()).enter(SEQUENCE).unwrap();
        sec1.take(INTEGER).unwrap();
        let private = BASE64_URL_SAFE_NO_PAD.encode(sec1.take(OCTET_STRING).unwrap());
        jwk.insert("d".into(), private.into());
        for (name, tried) in ["x", "y"].into_iter().zip(&mut tried) {
            let bytes = BASE64_URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
            let Some(short) = bytes.strip_prefix(&[0]) else { continue };
            *tried = true;
            let mut jwk = jwk.clone();
            jwk.insert(name.into(), BASE64_URL_SAFE_NO_PAD.encode(short).into());
            let read = SigningKey::parse(&Value::Object(jwk).to_string(), None).unwrap();
            assert_eq!(read.thumbprint(), key.thumbprint());
        }
    }
}

/// Each of these is somebody's private key until it is found out to be none.
#[test]
fn a_key_cut_anywhere_is_refused_without_panic() {
    for text in [RSA, RSA_PKCS1, P256, P256_SEC1, ED25519] {
        let (_, der) = <(SectionKind, Vec<u8>)>::from_pem_slice(text.as_bytes()).unwrap();
        for end in 0..der.len() {
            for parse in [from_pkcs8, from_pkcs1, |der: &[u8]| from_sec1(der, None)] {
                assert!(parse(&der[..end]).is_err());
            }
        }
    }
}

#[test]
fn a_generated_key_is_new_and_shows_nothing() {
    let [one, two] = [SigningKey::generate().unwrap(), SigningKey::generate().unwrap()];
    assert_eq!(one.algorithm, JwtAlgorithm::Es256);
    assert_ne!(one.thumbprint(), two.thumbprint());
    assert_eq!(format!("{one:?}"), "SigningKey(ES256, [redacted])");
    assert_eq!(jwt::jti().unwrap().len(), 22);
    assert_ne!(jwt::jti(), jwt::jti());
}
