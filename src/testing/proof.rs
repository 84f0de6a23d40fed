//! What a client signs: assertions (RFC 7523) and proofs that it holds a key (RFC 9449).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::HOST;
use serde_json::{Map, Value};

use super::client::invalid_client;
use super::counts::ReceivedRequest;
use super::reply::Refusal;
use super::state::State;
use crate::http::verify;

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The longest that an assertion may be good for: a client that signs one for longer has its units wrong.
const LONGEST_ASSERTION: u64 = 60 * 60;

/// How far a client's clock may be ahead, in seconds.
const AHEAD: u64 = 60;

/// How old a proof may be, in seconds.
const PROOF_LIFE: u64 = 300;

/// Whether the assertion says and proves that this is the client (RFC 7523 §3). Each is good for one
/// request.
pub(super) fn assertion(state: &mut State, request: &ReceivedRequest) -> Result<(), Refusal> {
    let refused = |why: &str| Err(invalid_client(format!("the assertion {why}")));
    if request.param("client_assertion_type") != Some(JWT_BEARER) {
        return Err(Refusal::new(
            "invalid_request",
            format!("no {JWT_BEARER} beside the assertion"),
        ));
    }
    let jwt = match Jwt::parse(request.param("client_assertion").unwrap_or_default()) {
        Ok(jwt) => jwt,
        Err(why) => return refused(why),
    };
    let settings = &state.settings;
    let signed = match (jwt.header("alg"), &settings.client_key) {
        ("HS256", _) => verify::has_signed_with(&state.client_secret, jwt.input, &jwt.signature),
        (algorithm, Some(key)) => verify::has_signed(key, algorithm, jwt.input, &jwt.signature),
        (_, None) => return refused("is signed with a key, and none of this client is known"),
    };
    if !signed {
        return refused("is not signed by this client");
    }
    let id = &*settings.client_id;
    if [jwt.claim("iss"), jwt.claim("sub"), request.param("client_id").unwrap_or(id)] != [id; 3] {
        return refused("is another client's (iss, sub)");
    }
    let endpoint = address(state, request);
    let own = [&*settings.issuer, &*format!("{}/oauth2/token", settings.issuer), &*endpoint]
        .map(str::to_owned);
    let wanted = settings.assertion_audiences.as_deref().unwrap_or(&own);
    let is_meant =
        |audience: &Value| audience.as_str().is_some_and(|it| wanted.iter().any(|own| own == it));
    if !match jwt.claims.get("aud") {
        Some(Value::Array(audiences)) => audiences.iter().any(is_meant),
        Some(audience) => is_meant(audience),
        None => false,
    } {
        return refused("is for another audience (aud)");
    }
    let now = now();
    let Some(expires) =
        jwt.number("exp").filter(|at| (now + 1..=now + LONGEST_ASSERTION).contains(at))
    else {
        return refused("has expired, or is good for more than an hour (exp)");
    };
    let dates = [jwt.number("iat"), jwt.number("nbf")];
    if dates.into_iter().flatten().any(|at| at > now + AHEAD) {
        return refused("is dated ahead (iat, nbf)");
    }
    if !state.is_new(jwt.claim("jti"), expires, now) {
        return refused("has no jti, or one that was used before");
    }
    Ok(())
}

/// The thumbprint of the key whose proof the request has (RFC 9449 §4.3), if it has one; with the token
/// that it uses, if it uses one.
pub(super) fn key(
    state: &mut State,
    request: &ReceivedRequest,
    token: Option<&str>,
) -> Result<Option<String>, Refusal> {
    let mut proofs = request.headers.get_all("dpop").iter();
    let Some(proof) = proofs.next() else { return Ok(None) };
    let refused =
        |why: &str| Err(Refusal::new("invalid_dpop_proof", format!("the DPoP proof {why}")));
    if proofs.next().is_some() {
        return refused("is not the only one");
    }
    let jwt = match Jwt::parse(proof.to_str().unwrap_or_default()) {
        Ok(jwt) => jwt,
        Err(why) => return refused(why),
    };
    let key = jwt.header.get("jwk").and_then(Value::as_object).filter(|jwk| !jwk.contains_key("d"));
    let Some((key, thumbprint)) = key.and_then(|key| Some((key, verify::thumbprint(key)?))) else {
        return refused("has no public key (jwk)");
    };
    if jwt.header("typ") != "dpop+jwt" {
        return refused("has another typ");
    }
    if !verify::has_signed(key, jwt.header("alg"), jwt.input, &jwt.signature) {
        return refused("is not signed by its key");
    }
    if jwt.claim("htm") != request.method || jwt.claim("htu") != address(state, request) {
        return refused("is for another request (htm, htu)");
    }
    if token.is_some_and(|token| jwt.claim("ath") != verify::hash(token)) {
        return refused("is for another token (ath)");
    }
    let now = now();
    let fresh = now.saturating_sub(PROOF_LIFE)..=now + AHEAD;
    let Some(made) = jwt.number("iat").filter(|at| fresh.contains(at)) else {
        return refused("was made at another time (iat)");
    };
    if !state.is_new(jwt.claim("jti"), made + PROOF_LIFE, now) {
        return refused("has no jti, or one that was used before");
    }
    Ok(Some(thumbprint))
}

/// As the client wrote it, who may call this machine by another of its names.
fn address(state: &State, request: &ReceivedRequest) -> String {
    let scheme = state.settings.issuer.split(':').next().unwrap_or_default();
    let host = request.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    format!("{scheme}://{host}{}", request.path)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// In its compact form (RFC 7515 §7.1).
struct Jwt<'a> {
    header: Map<String, Value>,
    claims: Map<String, Value>,
    /// What is signed.
    input: &'a [u8],
    signature: Vec<u8>,
}

impl<'a> Jwt<'a> {
    /// Or why it is none that can be checked.
    fn parse(text: &'a str) -> Result<Self, &'static str> {
        let jwt = Self::parts(text).ok_or("is no JWT")?;
        // RFC 7515 §4.1.11: whoever does not know all of them must refuse it.
        if jwt.header.contains_key("crit") {
            return Err("has critical headers, of which none is known here (crit)");
        }
        Ok(jwt)
    }

    fn parts(text: &'a str) -> Option<Self> {
        let (input, signature) = text.rsplit_once('.')?;
        let (header, claims) = input.split_once('.')?;
        let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).ok();
        let object = |part| serde_json::from_slice(&decode(part)?).ok();
        Some(Self {
            header: object(header)?,
            claims: object(claims)?,
            input: input.as_bytes(),
            signature: decode(signature)?,
        })
    }

    fn header(&self, name: &str) -> &str {
        self.header.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn claim(&self, name: &str) -> &str {
        self.claims.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.claims.get(name).and_then(Value::as_u64)
    }
}
