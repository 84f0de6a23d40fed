-- Look at a slot, and take its lease if nothing there will do.
-- KEYS entry lease revoked | ARGV id lease_ms least_us buffer_us seen n (not_tag | not_id)*n
--   id      16 bytes of this attempt's own; '' only looks
--   seen    '' or the id of the lease that this attempt has waited for long enough: it is taken over
--   not     16 bytes each: tags that will not do, or ids of entries that will not do
-- gives 'secs micros kind' with, behind it, the length of revoked in 2 bytes, revoked, and more; the kind is
--   e (more is the entry), l (leased), b (busy: more is the id of who holds it) or n (none)
-- The way to an entry is short, for it is the one that is gone most: no function is made, and no number
-- written; one string, since a list costs the server as much as the looks themselves.
local t = redis.call('TIME'); local now = t[1] * 1000000 + t[2]
-- What is not there, not a string or too long is ''.
local revoked, e = redis.pcall('GETRANGE', KEYS[3], 0, 640), redis.pcall('GETRANGE', KEYS[1], 0, 65536)
if type(revoked) ~= 'string' or #revoked > 640 then revoked = '' end
local at, listed = t[1] .. ' ' .. t[2] .. ' ', string.char(#revoked / 256, #revoked % 256) .. revoked
if type(e) == 'string' and #e >= 49 and #e <= 65536 and string.byte(e, 1) == 1 then
  local asked, life = struct.unpack('>I8I8', e, 2)
  local left = asked + life - now
  local least = math.max(math.min(10 * ARGV[3], 9 * life), math.min(10 * ARGV[4], life))
  local ok = life <= 2592000000000 and asked <= now and left > 0 and 10 * left >= least
  if ok then
    local tag, id = string.sub(e, 18, 33), string.sub(e, 34, 49)
    for i = 7, 6 + ARGV[6] do ok = ok and ARGV[i] ~= tag and ARGV[i] ~= id end
  end
  if ok then return at .. 'e' .. listed .. e end
end
if ARGV[1] == '' then return at .. 'n' .. listed end
local l = redis.pcall('GETRANGE', KEYS[2], 0, 16)
local left = redis.call('PTTL', KEYS[2])
-- Without an end, or with one further off than any that is given: a forged lease, or a clock that stepped back.
if type(l) == 'string' and #l == 16 and left >= 0 and left <= tonumber(ARGV[2]) and l ~= ARGV[5] then
  return at .. 'b' .. listed .. l
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return at .. 'l' .. listed
