-- Shared limits in Redis or Valkey: the three steps of `decision.py`, which is the reference and says what they mean.
--
-- KEYS: for each scope its state (a hash), its leases (a sorted set: id by expiry) and those who wait for a place (a
-- sorted set: daemon by when it began to wait); for `end` one more, the last number that this daemon has had counted.
-- ARGV: the step, the time in microseconds (empty: the server's own; tests give one), the prefix of the channels, the
-- name of the daemon, and what each step says below.
-- The answer is one string of words with spaces between them, which a client reads many times as fast as nested lists.
-- Times are microseconds since 1970 and money is micro-dollars: integers below 2^53, which Lua's numbers hold exactly.

local SECOND, MINUTE, DAY = 1000000, 60000000, 86400000000
local SETTLE, MAX_TOLD = 1500000, 1000000
local KEEP_NUMBERS = 604800 -- seconds

local step, prefix, daemon = ARGV[1], ARGV[3], ARGV[4]
local virtual = ARGV[2] ~= ''
local now
if virtual then
  now = tonumber(ARGV[2])
else
  local time = redis.call('TIME')
  now = time[1] * SECOND + time[2]
end

local function text(number) return string.format('%.0f', number) end

local function month_of(day)
  local shifted = day + 719468
  local era = math.floor(shifted / 146097)
  local of_era = shifted - era * 146097
  local year = math.floor(
    (of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524) - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  return (year + era * 400) * 12 + math.floor((5 * of_year + 2) / 153) + 2
end

local function month_end(month)
  local years = math.floor((month - 1) / 12)
  local number = (month - 1) - years * 12
  local era = math.floor(years / 400)
  local year = years - era * 400
  local of_era = year * 365 + math.floor(year / 4) - math.floor(year / 100) + math.floor((153 * number + 2) / 5)
  return (era * 146097 + of_era - 719468) * DAY
end

local today = math.floor(now / DAY)
local this_month = month_of(today)

local FIELDS = {'next_start', 'next_told', 'token_time', 'day', 'day_micros', 'day_estimated',
  'month', 'month_micros', 'month_estimated'}

-- Reads the state of scope `index`, without what has expired; another day or month begins with nothing spent.
local function load(index)
  local key = 3 * index - 2
  local scope = {hash = KEYS[key], leases = KEYS[key + 1], waiting = KEYS[key + 2], index = index}
  local found = redis.call('HMGET', scope.hash, 'born', unpack(FIELDS))
  scope.born = found[1] and tonumber(found[1])
  for number, name in ipairs(FIELDS) do scope[name] = tonumber(found[number + 1] or 0) end
  if scope.day ~= today then scope.day, scope.day_micros, scope.day_estimated = today, 0, 0 end
  if scope.month ~= this_month then scope.month, scope.month_micros, scope.month_estimated = this_month, 0, 0 end
  scope.next_start = math.min(scope.next_start, now + SECOND) -- the clock may have been set back
  if scope.born then scope.born = math.min(scope.born, now) end
  redis.call('ZREMRANGEBYSCORE', scope.leases, '-inf', text(now))
  scope.places = redis.call('ZCARD', scope.leases)
  return scope
end

local function save(scope)
  local values = {}
  for _, name in ipairs(FIELDS) do
    values[#values + 1] = name
    values[#values + 1] = text(scope[name])
  end
  if scope.born then
    values[#values + 1] = 'born'
    values[#values + 1] = text(scope.born)
  end
  redis.call('HSET', scope.hash, unpack(values))
end

local function add_leases(scope, expiry, ids, first, last)
  for begin = first, last, 1000 do
    local members = {}
    for number = begin, math.min(begin + 999, last) do
      members[#members + 1] = text(expiry)
      members[#members + 1] = ids[number]
    end
    redis.call('ZADD', scope.leases, unpack(members))
  end
  if not virtual and last >= first then -- nobody need ask for them to go
    local longest = tonumber(redis.call('ZREVRANGE', scope.leases, 0, 0, 'WITHSCORES')[2])
    redis.call('PEXPIRE', scope.leases, text(math.ceil((longest - now) / 1000)))
  end
end

local function words(...) return table.concat({...}, ' ') end

local function used(scope, limit_of_tokens)
  local tokens = 0
  if limit_of_tokens >= 0 then
    tokens = math.floor(math.max(scope.token_time - now, 0) * limit_of_tokens / MINUTE)
  end
  return words(scope.places, text(tokens), text(scope.day_micros), text(scope.day_estimated),
    text(scope.month_micros), text(scope.month_estimated))
end

local function interval(rate) return math.ceil(SECOND / rate) end

-- ARGV: lease, whether the daemon knows these scopes (1 or 0), how many scopes; for each its places, rate, tokens, day
-- and month, -1 where there is no such limit; the ids.
local function take()
  local lease, known, count = tonumber(ARGV[5]), ARGV[6] == '1', tonumber(ARGV[7])
  local scopes, emptied = {}, false
  for index = 1, count do
    local scope, at = load(index), 8 + 5 * (index - 1)
    scope.limit_places, scope.limit_rate, scope.limit_tokens =
      tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    scope.limit_day, scope.limit_month = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
    if not scope.born then
      scope.born = known and now or 0
      emptied = emptied or known
    end
    scopes[index] = scope
  end
  local reason, refusing, wait = '', 1, 0

  local function refused_for_all()
    for index, scope in ipairs(scopes) do
      if scope.limit_month >= 0 and scope.month_micros >= scope.limit_month then
        return 'month', index, month_end(scope.month) - now
      end
      if scope.limit_day >= 0 and scope.day_micros >= scope.limit_day then
        return 'day', index, (scope.day + 1) * DAY - now
      end
      if scope.limit_tokens >= 0 and scope.token_time - now >= MINUTE then
        local one = math.max(math.floor(MINUTE / scope.limit_tokens), 1)
        return 'tokens', index, scope.token_time - now - MINUTE + one
      end
    end
    for index, scope in ipairs(scopes) do
      if scope.born > 0 and now < scope.born + SETTLE then return 'settling', index, scope.born + SETTLE - now end
    end
    return '', 1, 0
  end

  local function refused()
    for index, scope in ipairs(scopes) do
      if scope.limit_places >= 0 and scope.places >= scope.limit_places then
        local first = redis.call('ZRANGE', scope.leases, 0, 0, 'WITHSCORES')
        local expiry = math.min(first[2] and tonumber(first[2]) or now + lease, now + lease)
        redis.call('ZADD', scope.waiting, 'NX', text(now), daemon)
        if not virtual then redis.call('PEXPIRE', scope.waiting, text(math.ceil(lease / 1000))) end
        return 'places', index, expiry - now
      end
    end
    for index, scope in ipairs(scopes) do
      if scope.limit_rate >= 0 then
        local free = math.max(scope.next_start, now) + interval(scope.limit_rate) - SECOND
        if free > now then
          local told = math.min(math.max(scope.next_told, free), free + MAX_TOLD)
          scope.next_told = told + interval(scope.limit_rate)
          return 'rate', index, told - now
        end
      end
    end
    return '', 1, 0
  end

  local first_id, granted, new = 8 + 5 * count, 0, {}
  reason, refusing, wait = refused_for_all()
  if reason == '' then
    for number = first_id, #ARGV do
      local held = true
      for _, scope in ipairs(scopes) do
        held = held and redis.call('ZSCORE', scope.leases, ARGV[number])
      end
      if not held then
        reason, refusing, wait = refused()
        if reason ~= '' then break end
        new[#new + 1] = ARGV[number]
        for _, scope in ipairs(scopes) do
          scope.places = scope.places + 1
          if scope.limit_rate >= 0 then
            scope.next_start = math.max(scope.next_start, now) + interval(scope.limit_rate)
          end
        end
      end
      granted = granted + 1
    end
  end
  local uses = {}
  for index, scope in ipairs(scopes) do
    add_leases(scope, now + lease, new, 1, #new)
    scope.places = redis.call('ZCARD', scope.leases)
    if reason == '' then redis.call('ZREM', scope.waiting, daemon) end
    save(scope)
    uses[index] = used(scope, scope.limit_tokens)
  end
  if emptied then redis.call('PUBLISH', prefix, '') end
  return words(text(now), granted, reason == '' and '-' or reason, refusing - 1, text(wait), unpack(uses))
end

-- Wakes as many of the daemons that wait as there are places free again, those first that have waited longest.
local function wake(scope, places)
  local backend = ARGV[5]
  while places > 0 do
    local first = redis.call('ZPOPMIN', scope.waiting)
    if not first[1] then return end
    -- The daemon itself knows; one that hears nothing is gone, and another one is woken in its place.
    if first[1] == daemon or redis.call('PUBLISH', prefix .. ':' .. first[1], backend) > 0 then
      places = places - 1
    end
  end
end

-- ARGV: the backend, the number, micro-dollars, those of them that are estimated, tokens, how many scopes; for each its
-- limit of tokens per minute, -1 where there is none; the ids.
local function finish()
  local number, micros, estimated, tokens = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
  local count = tonumber(ARGV[10])
  local counted_key = KEYS[3 * count + 1]
  if number <= tonumber(redis.call('GET', counted_key) or 0) then
    micros, estimated, tokens = 0, 0, 0
  else
    redis.call('SET', counted_key, text(number), 'EX', KEEP_NUMBERS)
  end
  local uses = {}
  for index = 1, count do
    local scope = load(index)
    local removed = 0
    if #ARGV > 10 + count then removed = redis.call('ZREM', scope.leases, unpack(ARGV, 11 + count)) end
    scope.places = scope.places - removed
    scope.day_micros = scope.day_micros + micros
    scope.day_estimated = scope.day_estimated + estimated
    scope.month_micros = scope.month_micros + micros
    scope.month_estimated = scope.month_estimated + estimated
    local limit = tonumber(ARGV[10 + index])
    if limit >= 0 then
      scope.token_time = math.max(scope.token_time, now) + math.floor(tokens * MINUTE / limit)
    end
    save(scope)
    if removed > 0 then wake(scope, removed) end
    uses[index] = used(scope, limit)
  end
  return words(unpack(uses))
end

-- ARGV: lease, how many scopes; for each its limit of tokens per minute, -1 where there is none; the ids.
local function renew()
  local lease, count = tonumber(ARGV[5]), tonumber(ARGV[6])
  local first_id, uses = 7 + count, {}
  for index = 1, count do
    local scope = load(index)
    if not scope.born and #ARGV >= first_id then
      scope.born = now
      save(scope)
      redis.call('PUBLISH', prefix, '')
    end
    add_leases(scope, now + lease, ARGV, first_id, #ARGV)
    scope.places = redis.call('ZCARD', scope.leases)
    uses[index] = used(scope, tonumber(ARGV[6 + index]))
  end
  return words(unpack(uses))
end

if step == 'take' then return take() end
if step == 'end' then return finish() end
return renew()
