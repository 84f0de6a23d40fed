#!/bin/sh
# A shell script that gets its tokens from the command. It takes the addresses of an authority, and the
# client's id and secret, from the environment; every line must work.
set -eu

session() { "$CCG_SESSION" "$@"; }
api() { curl --silent --noproxy '*' --output /dev/null --write-out '%{http_code}' "$@" "$RESOURCE_URL"; }
expect() { [ "$1" = "$2" ] || { echo "expected $1, got $2" >&2; exit 1; }; }

# A line for curl, with the token in it.
expect 200 "$(api --header "$(session token --issuer "$ISSUER" --format header)")"
expect 401 "$(api --header 'Authorization: Bearer nonsense')"

# The token itself: used, exchanged for a narrower one, and revoked.
token=$(session token --issuer "$ISSUER" --scope item_upload --scope item_preview)
expect 200 "$(api --header "Authorization: Bearer $token")"
narrow=$(session exchange --issuer "$ISSUER" --scope item_preview)
[ "$narrow" != "$token" ]
printf %s "$token" | session revoke --issuer "$ISSUER"
expect 401 "$(api --header "Authorization: Bearer $token")"

# An exit code says whose fault it was; nothing goes to stdout.
code=0
said=$(CCG_SESSION_CLIENT_SECRET=wrong session token --issuer "$ISSUER" 2>/dev/null) || code=$?
expect 3 "$code"
expect '' "$said"

session check --issuer "$ISSUER" >/dev/null
echo done
