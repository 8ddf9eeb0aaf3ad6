"""The Lua scripts of `redis_counters`, one a verb.

All keys of one organisation lie in one slot; each script takes them in this order:

1. its figures: `epoch` (which filling of the counters this is, beginning with the marker), `octets`
   (stored), `held` (octets reserved), `arrival` (GCRA's), `restated` (how often mails and octets
   were corrected)
2. its mails of the month
3. what is reserved: digest, by the time at which it runs out
4. the octets of each that is reserved
5. what is committed: digest, by the time until which it is known

What is asked about comes as one string of records (`ASKED`), which costs less to send than as many
arguments. Times are microseconds since 1970 by the caller's clock. A number in Lua is a double,
exact to 2^53: such times fit until 2255. Each script answers nil when the counters are not those
that the caller has filled, and changes nothing then. What ran out is swept away as the scripts go,
a hundred at a time; until then it counts, on the safe side. Every key runs out by itself, but for
the marker: where it is gone, or begins with another server's name, all was lost.
"""

import struct

from mailtape.stores.redis_connection import Script

_DAY_MS = 86_400_000
_FIGURES_MS = 72 * _DAY_MS
"""A month and forty days."""
_HELD_MS = 3_600_000

ASKED = struct.Struct(">32sdd")
"""Digest, octets, now."""

_PRELUDE = f"""
local figures, month, reserved, octets, committed = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local function asked(records, i) return struct.unpack('>c32dd', records, i) end
local function whole(n) return string.format('%.0f', n) end
local function last()
  redis.call('PEXPIRE', figures, {_FIGURES_MS})
  redis.call('PEXPIRE', month, {_FIGURES_MS})
  redis.call('PEXPIRE', reserved, {_HELD_MS})
  redis.call('PEXPIRE', octets, {_HELD_MS})
  redis.call('PEXPIRE', committed, {_HELD_MS})
end
local function drop(digest)
  local held = redis.call('HGET', octets, digest)
  if held then
    redis.call('ZREM', reserved, digest)
    redis.call('HDEL', octets, digest)
    if held ~= '0' then redis.call('HINCRBY', figures, 'held', '-' .. held) end
  end
end
local function mend() -- of what is reserved, the sum outlives its parts, unless they were swept
  local there = redis.call('EXISTS', reserved, octets)
  if there == 1 or (there == 0 and redis.call('HGET', figures, 'held') ~= '0') then
    redis.call('DEL', reserved, octets)
    redis.call('HSET', figures, 'held', 0)
  end
end
local function sweep(now)
  mend()
  for _, digest in ipairs(redis.call('ZRANGEBYSCORE', reserved, '-inf', now, 'LIMIT', 0, 100)) do
    drop(digest)
  end
  local known = redis.call('ZRANGEBYSCORE', committed, '-inf', now, 'LIMIT', 0, 100)
  if #known > 0 then redis.call('ZREM', committed, unpack(known)) end
end
local function stands(set, digest, now)
  local until_ = redis.call('ZSCORE', set, digest)
  return until_ and tonumber(until_) > now
end
"""

_OURS = """
if redis.call('HGET', figures, 'epoch') ~= ARGV[1] or redis.call('EXISTS', month) == 0 then
  return false
end
"""

_MARKED = """
local function server() return string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') end
local function begins(text, with) return string.sub(text, 1, #with) == with end
"""

MARK = Script(
    _MARKED
    + """
-- KEYS: the marker, and what is there while others may still have to tell. ARGV: what to tell a new
-- marker from others by, for how many milliseconds those may tell. Gives the marker and how many
-- of these are left.
local marker, here = redis.call('GET', KEYS[1]), server()
if not marker or not begins(marker, here) then
  marker = here .. ARGV[1]
  redis.call('SET', KEYS[1], marker)
  if ARGV[2] ~= '0' then redis.call('SET', KEYS[2], 1, 'PX', ARGV[2]) end
end
return {marker, redis.call('PTTL', KEYS[2])}
"""
)

_RULE = """
-- ARGV: epoch, what is asked about, most octets of a mail, of storage, mails a month, GCRA's
-- interval and burst, how long to hold. A limit that is not there is -1; -2 is the interval of a
-- rate of none. A refusal comes with the figures it was made from. Held for no time, nothing new is
-- taken: 'wait'.
local records = ARGV[2]
local most_octets, most_storage = tonumber(ARGV[3]), tonumber(ARGV[4])
local most_emails = tonumber(ARGV[5])
local interval, burst, hold_for = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local _, _, newest = asked(records, #records - 47)
sweep(whole(newest))
local kept = redis.call('HMGET', figures, 'octets', 'held', 'arrival')
local stored, held, arrival = tonumber(kept[1]), tonumber(kept[2]), tonumber(kept[3])
local used = tonumber(redis.call('GET', month)) + redis.call('ZCARD', reserved)
local granted, sizes, fresh = {}, {}, {}

local function large(size) return most_octets >= 0 and size > most_octets end
local function full(size, others)
  return most_storage >= 0 and stored + others + math.max(size, 1) > most_storage
end
local function decide(size, now)
  local following = 0
  if large(size) or interval == -2 then return false end
  if interval >= 0 then
    following = math.max(arrival, now)
    if following + interval - now - burst > 0 then return false end
    following = following + interval
  end
  if most_emails >= 0 and most_emails - used - 1 < 0 then return false end
  if full(size, held) then return false end
  return true, following
end

local function answered(word, others)
  return table.concat({word, whole(used), whole(stored), whole(others), whole(arrival)}, ' ')
end
local function held_until(digest, now)
  if fresh[digest] then return fresh[digest] end
  local until_ = tonumber(redis.call('ZSCORE', reserved, digest) or 0)
  if until_ > now then return until_ end
  if until_ > 0 then -- not swept away yet
    used, held = used - 1, held - tonumber(redis.call('HGET', octets, digest) or 0)
    drop(digest)
  end
end
local function hold(digest, size)
  held = held + size
  sizes[#sizes + 1], sizes[#sizes + 2] = digest, whole(size)
end
local function take(digest, size, now)
  local taken, following = decide(size, now)
  if not taken then return answered('no', held) end
  if hold_for == 0 then return 'wait' end
  arrival, used, fresh[digest] = following, used + 1, now + hold_for
  granted[#granted + 1], granted[#granted + 2] = whole(now + hold_for), digest
  hold(digest, size)
  return answered('yes', held)
end
local function keep()
  if #sizes == 0 then return end
  redis.call('HSET', figures, 'held', whole(held), 'arrival', whole(arrival))
  redis.call('HSET', octets, unpack(sizes))
  if #granted > 0 then
    redis.call('ZADD', reserved, unpack(granted))
    last()
  end
end
"""

RESERVE = Script(
    _PRELUDE
    + _OURS
    + _RULE
    + """
local answers = {}
for i = 1, #records, 48 do
  local digest, size, now = asked(records, i)
  if held_until(digest, now) or stands(committed, digest, now) then
    answers[#answers + 1] = 'known'
  else
    answers[#answers + 1] = take(digest, size, now)
  end
end
keep()
return table.concat(answers, ',')
"""
)

FITS = Script(
    _PRELUDE
    + _OURS
    + _RULE
    + """
-- What is held for a mail that fits is its size from now on: 'fits', and until when it is held.
-- 'unfit' is refused by its size; one that nothing is held for is then asked about as in RESERVE.
local answers, now_held = {}, {}
for i = 1, #records, 48 do
  local digest, size, now = asked(records, i)
  local answer = 'known'
  if not stands(committed, digest, now) then
    local until_ = held_until(digest, now)
    local before = 0
    if until_ then
      before = now_held[digest] or tonumber(redis.call('HGET', octets, digest) or 0)
    end
    if large(size) or full(size, held - before) then
      answer = answered('unfit', held - before)
    elseif until_ then
      held = held - before
      hold(digest, size)
      now_held[digest] = size
      answer = 'fits ' .. whole(until_)
    else
      answer = take(digest, size, now)
      if fresh[digest] then now_held[digest] = size end
    end
  end
  answers[#answers + 1] = answer
end
keep()
return table.concat(answers, ',')
"""
)

COMMIT = Script(
    _PRELUDE
    + _OURS
    + """
-- ARGV: epoch, what is asked about, for how long it is known.
local records, known_for = ARGV[2], tonumber(ARGV[3])
for i = 1, #records, 48 do
  local digest, size, now = asked(records, i)
  if not stands(committed, digest, now) then
    drop(digest)
    redis.call('INCR', month)
    redis.call('HINCRBY', figures, 'octets', whole(size))
    redis.call('ZADD', committed, whole(now + known_for), digest)
  end
end
last()
return 1
"""
)

RELEASE = Script(
    _PRELUDE
    + """
-- ARGV: digests. Whoever filled the counters: a reservation that is there is given back.
for _, digest in ipairs(ARGV) do drop(digest) end
return 1
"""
)

USAGE = Script(
    _PRELUDE
    + _OURS
    + """
-- ARGV: epoch, now. Gives mails, octets, reserved mails and octets, arrival, restated.
sweep(ARGV[2])
local kept = redis.call('HMGET', figures, 'octets', 'held', 'arrival', 'restated')
local emails = redis.call('GET', month)
local reserved_emails = redis.call('ZCARD', reserved)
return table.concat({emails, kept[1], reserved_emails, kept[2], kept[3], kept[4]}, ' ')
"""
)

FILL = Script(
    _PRELUDE
    + _MARKED
    + """
-- KEYS: also the marker. ARGV: an epoch, mails and octets by the rows, arrival, the month, until
-- when a commit is known, whether the caller has itself just begun to fill them from these rows
-- ('yes'), the marker, the epoch that the caller knew; then digest, octets, until, what it is and
-- the month of each thing that is held. Gives the epoch that the counters have now, nil when the
-- marker is another. Filled by two processes at a time, they hold the same: all goes by digests,
-- and of two sizes, one announced and one true, the larger stays. What was filled under another
-- marker is of an age that nobody knows.
local known_for, marker = ARGV[6], ARGV[8]
if redis.call('GET', KEYS[6]) ~= marker or not begins(marker, server()) then return false end
local empty = not begins(redis.call('HGET', figures, 'epoch') or '', marker)
local new = empty or ARGV[7] == 'yes'
local told = not empty and redis.call('HGET', figures, 'epoch') == ARGV[9]
if empty then
  redis.call('DEL', figures, month, reserved, octets, committed)
  redis.call('HSET', figures, 'epoch', ARGV[1], 'octets', ARGV[3], 'held', 0, 'arrival', ARGV[4],
    'restated', 0)
else
  mend()
end
if tonumber(ARGV[4]) > tonumber(redis.call('HGET', figures, 'arrival')) then
  redis.call('HSET', figures, 'arrival', ARGV[4])
end
redis.call('SETNX', month, ARGV[2])
local function reserve(digest, size, until_)
  drop(digest)
  redis.call('ZADD', reserved, until_, digest)
  redis.call('HSET', octets, digest, size)
  redis.call('HINCRBY', figures, 'held', size)
end
for i = 10, #ARGV, 5 do
  local digest, size, until_, what = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local own = what == 'own' or what == 'doubtful'
  if not (own and told) and not redis.call('ZSCORE', committed, digest) then
    if what == 'reserved' then
      local before = tonumber(redis.call('HGET', octets, digest) or -1)
      if tonumber(size) > before then reserve(digest, size, until_) end
    else
      redis.call('ZADD', committed, known_for, digest)
      if what == 'doubtful' then
        reserve(digest, size, until_)
      else
        drop(digest)
        if what == 'committed' or what == 'own' or (what == 'stored' and not new) then
          if ARGV[i + 4] == ARGV[5] then redis.call('INCR', month) end
          redis.call('HINCRBY', figures, 'octets', size)
        end
      end
    end
  end
end
last()
return redis.call('HGET', figures, 'epoch')
"""
)
"""What is held, as FILL names it. `reserved`. `committed`, and not in the rows. `stored`: it is in
the rows, and counts only where the counters are older than that. `known`: as that, and every
counter has it. `own`: as `committed`, by the caller, who has told it to counters that it knew.
`doubtful`: as that, and in the rows by now; but whoever filled the counters may have read them
before, so it counts as reserved until `reconcile` has seen it.
"""

RESTATE = Script(
    _PRELUDE
    + _OURS
    + """
-- ARGV: epoch, how often they were restated when that was seen, mails and octets to add, which may
-- be less than nothing. Of two who saw the same, one corrects it.
if redis.call('HGET', figures, 'restated') ~= ARGV[2] then return 0 end
redis.call('INCRBY', month, ARGV[3])
redis.call('HINCRBY', figures, 'octets', ARGV[4])
redis.call('HINCRBY', figures, 'restated', 1)
last()
return 1
"""
)
