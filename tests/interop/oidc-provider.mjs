// A real authorization server: panva's certified oidc-provider, with what a machine's session needs of it,
// and an API that takes its tokens. Prints one line of JSON when it listens, and ends when its stdin does.
//   PORT    0, any free one, unless it is set
//   TTL     how long tokens live, in seconds: 60 unless it is set
//   CLOCK   how far its clock is ahead, in seconds
//   DPOP    "off": it knows nothing of DPoP; "no-nonces": it wants none in a proof. Else it wants one in each
//   TLS     {"cert", "key", "ca"} in PEM: it speaks TLS, and asks for client certificates of that CA
import { createHash, createPublicKey } from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { calculateJwkThumbprint, EmbeddedJWK, jwtVerify } from 'jose';
import { applyDpopBinding } from 'oidc-provider/lib/helpers/grant_common.js';
import { validateDpop } from 'oidc-provider/lib/helpers/grants.js';

// They are about production, and about Node 20, with which it works.
console.warn = () => {};
const { Provider, errors } = await import('oidc-provider');

const { PORT = '0', TTL = '60', CLOCK = '0', DPOP, TLS } = process.env;
const ttl = Number(TTL);
const realNow = Date.now;
Date.now = () => realNow() + Number(CLOCK) * 1000;

const exchange = 'urn:ietf:params:oauth:grant-type:token-exchange';
const accessToken = 'urn:ietf:params:oauth:token-type:access_token';
const resources = ['https://api.example/files/1', 'https://api.example/files/2', 'https://api.example/'];
const scopes = ['read', 'write', 'delete', 'item_preview', 'item_upload'];
const secret = 'a secret: with + % & = and spaces';
const keys = {
  RS256: 'rsa', RS384: 'rsa', RS512: 'rsa', PS256: 'rsa', ES256: 'p256', ES384: 'p384', EdDSA: 'ed25519',
};

const machine = (client_id, token_endpoint_auth_method, more = {}) => ({
  client_id, token_endpoint_auth_method, redirect_uris: [], response_types: [],
  grant_types: ['client_credentials', exchange], scope: scopes.join(' '), ...more,
});
const withKey = ([token_endpoint_auth_signing_alg, name]) => {
  const key = JSON.parse(readFileSync(new URL(`../keys/${name}.jwk`, import.meta.url)));
  const { kid } = key;
  const jwks = { keys: [{ ...createPublicKey({ key, format: 'jwk' }).export({ format: 'jwk' }), kid }] };
  const id = `${token_endpoint_auth_signing_alg.toLowerCase()}-client`;
  return machine(id, 'private_key_jwt', { token_endpoint_auth_signing_alg, jwks });
};
const clients = [
  machine('basic-client', 'client_secret_basic', { client_secret: secret }),
  machine('post-client', 'client_secret_post', { client_secret: secret }),
  machine('jwt-secret-client', 'client_secret_jwt', { client_secret: 'x'.repeat(48) }),
  ...Object.entries(keys).map(withKey),
  machine('tls-client', 'tls_client_auth', { tls_client_auth_san_dns: 'client.example' }),
  machine('public-client', 'none'),
];

// RFC 8693: one of its own tokens for a narrower one.
async function exchanged(ctx) {
  const { provider, client, params } = ctx.oidc;
  const { subject_token, subject_token_type, scope, resource } = params;
  if (subject_token_type !== accessToken) throw new errors.InvalidRequest('subject_token_type must be an access token');
  const proof = await validateDpop(provider, ctx);
  const subject = await provider.ClientCredentials.find(subject_token ?? '');
  if (!subject || subject.clientId !== client.clientId) throw new errors.InvalidGrant('subject_token is not active');
  const wanted = (scope ?? '').split(' ').filter(Boolean);
  const held = new Set((subject.scope ?? '').split(' ').filter(Boolean));
  if (!wanted.every((one) => held.has(one))) throw new errors.InvalidScope('scope exceeds the subject token', scope);
  if (resource && !resources.includes(resource)) throw new errors.InvalidTarget();
  const token = new provider.ClientCredentials({ client, scope: wanted.join(' ') || undefined });
  if (resource) token.aud = resource;
  await applyDpopBinding(provider, ctx, proof, token);
  ctx.body = {
    access_token: await token.save(), issued_token_type: accessToken, token_type: token.tokenType,
    expires_in: token.expiration, scope: token.scope,
  };
}
const exchangeParams = [
  'subject_token', 'subject_token_type', 'actor_token', 'actor_token_type', 'requested_token_type', 'scope',
  'resource', 'audience',
];

// GET /api: says whom the token is for and what it may do. A bound one needs a proof (RFC 9449 §4.3, §7).
const seen = new Set();
async function api(provider, issuer, req, res) {
  const answer = (status, body) => res.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  const [scheme, value] = (req.headers.authorization ?? '').split(' ');
  const token = await provider.ClientCredentials.find(value ?? '');
  if (!token?.isValid || scheme !== token.tokenType) return answer(401, { error: 'invalid_token' });
  if (token.jkt) {
    try {
      const proof = await jwtVerify(req.headers.dpop ?? '', EmbeddedJWK, { typ: 'dpop+jwt', maxTokenAge: 60 });
      const { htm, htu, ath, jti } = proof.payload;
      const fits = htm === req.method && htu === `${issuer}/api` && !seen.has(jti)
        && ath === createHash('sha256').update(value).digest('base64url')
        && token.jkt === await calculateJwkThumbprint(proof.protectedHeader.jwk);
      if (!fits) throw new Error('it is for something else');
      seen.add(jti);
    } catch {
      return answer(401, { error: 'invalid_dpop_proof' });
    }
  }
  return answer(200, { client: token.clientId, aud: token.aud, scope: token.scope });
}

const tls = TLS && JSON.parse(TLS);
const server = tls
  ? https.createServer({ ...tls, requestCert: true, rejectUnauthorized: false })
  : http.createServer();
server.listen(Number(PORT), '127.0.0.1', () => {
  const issuer = `${tls ? 'https' : 'http'}://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients,
    scopes,
    clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt', 'tls_client_auth', 'none'],
    enabledJWA: { clientAuthSigningAlgValues: ['HS256', ...Object.keys(keys)] },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      revocation: { enabled: true, allowedPolicy: () => true },
      introspection: { enabled: true, allowedPolicy: () => true },
      dPoP: DPOP === 'off'
        ? { enabled: false }
        : { enabled: true, ...(DPOP === 'no-nonces' ? {} : { nonceSecret: Buffer.alloc(32, 7), requireNonce: () => true }) },
      mTLS: {
        enabled: true, tlsClientAuth: true,
        getCertificate: (ctx) => ctx.socket.getPeerX509Certificate?.(),
        certificateAuthorized: (ctx) => ctx.socket.authorized,
        certificateSubjectMatches: (ctx, property, expected) =>
          property === 'tls_client_auth_san_dns' && ctx.socket.getPeerX509Certificate().checkHost(expected) !== undefined,
      },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => undefined,
        useGrantedResource: () => true,
        getResourceServerInfo: (ctx, indicator) => {
          if (!resources.includes(indicator)) throw new errors.InvalidTarget();
          return { scope: scopes.join(' '), accessTokenTTL: ttl, accessTokenFormat: 'opaque' };
        },
      },
    },
    ttl: { ClientCredentials: ttl },
  });
  provider.registerGrantType(exchange, exchanged, exchangeParams, ['resource']);
  provider.on('server_error', (ctx, error) => console.error(error));
  const oauth = provider.callback();
  server.on('request', (req, res) => {
    // Node dates its answers by a clock that cannot be set from here.
    res.setHeader('date', new Date(Date.now()).toUTCString());
    return req.url === '/api' ? api(provider, issuer, req, res) : oauth(req, res);
  });
  console.log(JSON.stringify({ issuer }));
});
process.stdin.resume().on('end', () => process.exit());
