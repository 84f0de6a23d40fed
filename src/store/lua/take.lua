-- Look at a slot, and take its lease if nothing there will do.
-- KEYS entry lease revoked | ARGV id lease_ms least_us buffer_us seen n (not_tag | not_id)*n
--   id      16 bytes of this attempt's own; '' only looks
--   seen    '' or the id of the lease that this attempt has waited for long enough: it is taken over
--   not     16 bytes each: tags that will not do, or ids of entries that will not do
-- gives {kind, now, revoked, more}: entry (the entry) | leased | busy (the id of who holds it) | none
local t = redis.call('TIME'); local now = t[1] * 1000000 + t[2]
local function text(key, most)      -- nil for what is not there, not a string or too long
  local s = redis.pcall('GETRANGE', key, 0, most)
  return type(s) == 'string' and s ~= '' and #s <= most and s or nil
end
local revoked = text(KEYS[3], 640) or ''
local function answer(kind, more) return {kind, string.format('%.0f', now), revoked, more or ''} end

local e = text(KEYS[1], 65536)
if e and #e >= 49 and string.byte(e, 1) == 1 then
  local asked, life = struct.unpack('>I8I8', string.sub(e, 2, 17))
  local tag, id = string.sub(e, 18, 33), string.sub(e, 34, 49)
  local left = asked + life - now
  local least = math.max(math.min(10 * tonumber(ARGV[3]), 9 * life), math.min(10 * tonumber(ARGV[4]), life))
  local ok = life <= 2592000000000 and asked <= now and left > 0 and 10 * left >= least
  for i = 7, 6 + tonumber(ARGV[6]) do ok = ok and ARGV[i] ~= tag and ARGV[i] ~= id end
  if ok then return answer('entry', e) end
end
if ARGV[1] == '' then return answer('none') end
local l = text(KEYS[2], 16)
local left = redis.call('PTTL', KEYS[2])
-- Without an end, or with one further off than any that is given: a forged lease, or a clock that stepped back.
if l and #l == 16 and left >= 0 and left <= tonumber(ARGV[2]) and l ~= ARGV[5] then return answer('busy', l) end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return answer('leased')
