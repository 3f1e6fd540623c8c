-- strict.lua: undefined names are errors, and tables are walked in sorted order only.

local strict = {}

-- host.next is the one way to walk a table's keys, and this file the only one that may use it: the order in which `next`
-- finds them differs between processes, and generated text must not.
local raw_next <const> = host.next

local function before(a, b)
    local ta, tb = type(a), type(b)
    if ta ~= tb then return ta < tb end
    return a < b
end

-- for key, value in strict.sorted(t): numbers first in ascending order, then strings.
function strict.sorted(t)
    local keys = {}
    for key in raw_next, t do keys[#keys + 1] = key end
    table.sort(keys, before)
    local i = 0
    return function()
        i = i + 1
        if keys[i] ~= nil then return keys[i], t[keys[i]] end
    end
end

-- A table whose missing fields are errors that name `what`. Fields may still be nil-checked through strict.get.
function strict.seal(t, what)
    return setmetatable(t, { __index = function(_, key)
        error(what .. " has no field '" .. tostring(key) .. "'", 2)
    end })
end

-- A shallow copy with the fields of `changes` laid over.
function strict.with(t, changes)
    local copy = {}
    for key, value in strict.sorted(t) do copy[key] = value end
    for key, value in strict.sorted(changes) do copy[key] = value end
    return setmetatable(copy, getmetatable(t))
end

return strict
