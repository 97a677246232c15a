"""The Lua scripts by which a profile changes: compare the revision and write, in one step."""

# Both scripts touch the keys of one user alone. They carry the same hash tag, so that a Redis
# Cluster keeps them on one node. The tenant's index of users lies elsewhere and cannot take part.
#
# KEYS[1] profile, KEYS[2] tombstone: the revision a deleted profile had. Without it the next
# profile of that user would count from 1 again, and a writer who read the deleted one might win.
# A key of a wrong type is a damaged profile. It can be replaced or deleted by a caller who does
# not ask for a revision.

# ARGV: expected revision or '', channel, message, then the fields and values of the hash.
# Returns {status, revision}: 'created' or 'updated' with the new revision, 'conflict' with the
# stored one (0 if there is none), or 'damaged'.
PUT = """
local kind = redis.call('TYPE', KEYS[1]).ok
local stored = kind == 'hash' and redis.call('HGET', KEYS[1], 'revision') or false
if ARGV[1] ~= '' then
  if kind ~= 'none' and not stored then return {'damaged', '0'} end
  if ARGV[1] ~= (stored or '0') then return {'conflict', stored or '0'} end
end
local before = stored or redis.call('GET', KEYS[2]) or '0'
local revision = string.format('%.0f', (tonumber(before) or 0) + 1)
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], 'revision', revision, unpack(ARGV, 4))
redis.call('PUBLISH', ARGV[2], ARGV[3])
return {stored and 'updated' or 'created', revision}
"""

# ARGV: expected revision or '', channel, message, milliseconds the tombstone stays.
# Returns {status, revision, preferences}: 'deleted' with what was stored, 'missing', 'conflict'
# with the stored revision, or 'damaged'.
DELETE = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then return {'missing', '0', ''} end
local stored = kind == 'hash' and redis.call('HGET', KEYS[1], 'revision') or false
if ARGV[1] ~= '' then
  if not stored then return {'damaged', '0', ''} end
  if ARGV[1] ~= stored then return {'conflict', stored, ''} end
end
local preferences = kind == 'hash' and redis.call('HGET', KEYS[1], 'preferences') or ''
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], stored or '0', 'PX', ARGV[4])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return {'deleted', stored or '0', preferences}
"""
