"""The Lua scripts by which a profile is read and changes: compare the revision, write, at once."""

# All scripts touch the keys of one user alone. They carry the same hash tag, so that a Redis
# Cluster keeps them on one node. The tenant's index of users lies elsewhere and takes no part.
#
# KEYS[1] profile, KEYS[2] tombstone: the revision a deleted profile had. Without it the next
# profile of that user would count from 1 again, and a writer who read the deleted one might win.
# A key of a wrong type is a damaged profile. It can be replaced or deleted by a caller who does
# not ask for a revision. Whoever else writes to our keys may write anything, of any size: what is
# larger than anything of ours is not even read, as sending it would hold up everybody's calls.

# 8 texts of 2000 characters, each at most 12 bytes of JSON, and weights: 200 KB.
MAX_PREFERENCES_BYTES = 256 * 1024
# Of earlier revisions of one profile: two of the largest, thousands of usual ones.
MAX_HISTORY_BYTES = 512 * 1024

_READERS = f"""
local kind = redis.call('TYPE', KEYS[1]).ok
local function field(name, most)
  if kind ~= 'hash' or redis.call('HSTRLEN', KEYS[1], name) > most then return false end
  return redis.call('HGET', KEYS[1], name)
end
local function revision(text)
  return text and #text <= 15 and string.match(text, '^[1-9]%d*$') and text or false
end
local function preferences()
  return field('preferences', {MAX_PREFERENCES_BYTES}) or ''
end
local function history()
  return field('history', {MAX_HISTORY_BYTES}) or ''
end
"""

# Returns {kind of the key, schema, preferences, beta, revision, updated_at}; nothing for a field
# that is missing or too large, but '' for preferences.
READ = (
    _READERS
    + """
return {kind, field('schema', 64), preferences(), field('beta', 64),
  field('revision', 15), field('updated_at', 64)}
"""
)

# Returns what READ does, and then the history: a line a revision, newest first, of schema,
# revision, time, beta and preferences with tabs between.
READ_HISTORY = (
    _READERS
    + """
return {kind, field('schema', 64), preferences(), field('beta', 64),
  field('revision', 15), field('updated_at', 64), history()}
"""
)

# The history is a field of the profile's own hash: whatever erases the profile erases it too, also
# a server of a version that does not know it. Such a server's next write drops it.
#
# ARGV: expected revision or '', channel, message, most earlier revisions to keep, a line that the
# history must hold or '', then the fields and values of the hash.
# Returns {status, revision, old preferences}: 'created' or 'updated' with the new revision,
# 'conflict' with the stored one (0 if there is none), or 'damaged'; where a line must be there,
# 'missing' if there is no profile, and 'changed' if the line is not there.
PUT = (
    _READERS
    + f"""
local function as_line(number)
  local parts = {{field('schema', 64), number, field('updated_at', 64), field('beta', 64),
    preferences()}}
  for i = 1, 5 do
    if not parts[i] or string.find(parts[i], '[\\t\\r\\n]') then return '' end
  end
  if parts[5] == '' then return '' end
  return table.concat(parts, '\\t') .. '\\n'
end
local function trimmed(lines, most)
  local count, stop = 0, 0
  while count < most do
    local place = string.find(lines, '\\n', stop + 1, true)
    if not place or place > {MAX_HISTORY_BYTES} then break end
    count, stop = count + 1, place
  end
  return string.sub(lines, 1, stop)
end
local stored = revision(field('revision', 15))
local earlier = history()
if ARGV[5] ~= '' then
  if kind == 'none' then return {{'missing', '0', ''}} end
  if not string.find('\\n' .. earlier, '\\n' .. ARGV[5], 1, true) then
    return {{'changed', '0', ''}}
  end
end
"""
    + """
if ARGV[1] ~= '' then
  if kind ~= 'none' and not stored then return {'damaged', '0', ''} end
  if ARGV[1] ~= (stored or '0') then return {'conflict', stored or '0', ''} end
end
local buried = redis.call('TYPE', KEYS[2]).ok == 'string' and redis.call('STRLEN', KEYS[2]) <= 15
local before = stored or revision(buried and redis.call('GET', KEYS[2])) or '0'
local after = string.format('%.0f', tonumber(before) + 1)
local old = preferences()
local kept = trimmed((stored and as_line(stored) or '') .. earlier, tonumber(ARGV[4]))
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], 'revision', after, unpack(ARGV, 6))
if kept ~= '' then redis.call('HSET', KEYS[1], 'history', kept) end
redis.call('PUBLISH', ARGV[2], ARGV[3])
return {stored and 'updated' or 'created', after, old}
"""
)

# ARGV: expected revision or '', preferences that the caller saw, channel, message, channel and
# message of erasures, milliseconds the tombstone stays.
# Returns {status, revision}: 'deleted', 'missing', 'conflict' with the stored revision, 'damaged',
# or 'changed' if the preferences are not those that the caller saw.
DELETE = (
    _READERS
    + """
if kind == 'none' then return {'missing', '0'} end
local stored = revision(field('revision', 15))
if ARGV[1] ~= '' then
  if not stored then return {'damaged', '0'} end
  if ARGV[1] ~= stored then return {'conflict', stored} end
end
if ARGV[2] ~= preferences() then return {'changed', stored or '0'} end
redis.call('UNLINK', KEYS[1])
redis.call('SET', KEYS[2], stored or '0', 'PX', ARGV[7])
redis.call('PUBLISH', ARGV[3], ARGV[4])
redis.call('PUBLISH', ARGV[5], ARGV[6])
return {'deleted', stored or '0'}
"""
)

# KEYS[1] is not touched: in a cluster it says which node is asked, which is one that the caller has
# to do with anyway. ARGV: channel, message.
TELL = """
return redis.call('PUBLISH', ARGV[1], ARGV[2])
"""

# Encodings: KEYS[1] a hash with a field per model version, or a text while it is not to be kept.
# ARGV: model version, most bytes. Returns the encoding, or nothing.
READ_ENCODING = """
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return false end
if redis.call('HSTRLEN', KEYS[1], ARGV[1]) > tonumber(ARGV[2]) then return false end
return redis.call('HGET', KEYS[1], ARGV[1])
"""

# ARGV: model version, encoding, milliseconds it stays. Writes nothing over another type.
PUT_ENCODING = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'none' and kind ~= 'hash' then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""

# ARGV: seconds for which nothing is kept. A Redis whose memory is full lets a script write that has
# freed something, so erasures go on there.
FORGET_ENCODING = """
redis.call('UNLINK', KEYS[1])
redis.call('SET', KEYS[1], '', 'EX', ARGV[1])
return 1
"""
