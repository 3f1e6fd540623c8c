-- sandbox.lua: what generator code can name, what it cannot, and that nothing of the machine shows through.

local function fails(part, f, ...)
    local ok, message = pcall(f, ...)
    return not ok and type(message) == "string" and string.find(message, part, 1, true) ~= nil
end

-- ---- Names ----

local env <const> = _ENV
for _, name in ipairs { "pairs", "next", "load", "loadstring", "dofile", "loadfile", "print", "warn", "rawset",
                        "rawget", "rawequal", "rawlen", "xpcall", "collectgarbage", "io", "os", "debug", "package",
                        "coroutine", "_G", "_VERSION", "jit" } do
    check(name .. " is undefined", fails("undefined name '" .. name .. "'", function() return env[name] end))
end
for _, name in ipairs { "assert", "error", "ipairs", "select", "tonumber", "tostring", "type", "pcall", "require",
                        "getmetatable", "setmetatable" } do
    check(name .. " is a function", type(env[name]) == "function")
end
check("string.dump is absent", string.dump == nil)
check("math.random is absent", math.random == nil and math.randomseed == nil)
check("a string's methods are the string table's", ("").dump == nil and ("x"):rep(3) == "xxx")

local module <const> = host.load("undeclared = 1", "@assigning", getmetatable(_ENV).__index)
check("a global name cannot be assigned", fails("assignment to the global name 'undeclared'", module))
check("the globals' metatable is hidden", getmetatable(getmetatable(_ENV).__index) == false)
check("the strings' metatable is hidden", getmetatable("") == false)
check("a finalizer is refused", fails("__gc", setmetatable, {}, { __gc = function() end }))
check("a protected metatable stays", fails("protected", setmetatable, setmetatable({}, { __metatable = 1 }), {}))
check("setmetatable(t, nil) takes it off", getmetatable(setmetatable(setmetatable({}, {}), nil)) == nil)
check("setmetatable refuses a number", fails("nil or table expected", setmetatable, {}, 1))

-- ---- Addresses ----

local named <const> = setmetatable({}, { __tostring = function() return "named" end })
for name, value in host.next, { table = {}, ["function"] = function() end, builtin = type } do
    check("tostring of a " .. name, fails("would print as its address", tostring, value))
    check("%s of a " .. name, fails("would print as its address", string.format, "%s", value))
    check("%10.5s of a " .. name, fails("would print as its address", string.format, "%10.5s", value))
    check("%p of a " .. name, fails("%p prints an address", string.format, "%p", value))
end
check("%p of a string", fails("%p prints an address", string.format, "%% %d %-20p", 1, "text"))
check("%%p is no %p", string.format("%%p %d", 1) == "%p 1")
check("a lone % is an error", fails("invalid conversion", string.format, "%", 1))
check("tostring honours __tostring", tostring(named) == "named" and string.format("%s", named) == "named")
check("tostring of plain values", tostring(nil) == "nil" and tostring(true) == "true" and tostring(8) == "8" and
      tostring(8.5) == "8.5" and tostring("x") == "x")
check("tostring needs a value", fails("value expected", tostring))

-- ---- Numbers do not follow the locale ----

check("floats print with a point", tostring(1.5) == "1.5" and string.format("%.2f", 0.25) == "0.25")
check("floats are read with a point", tonumber("1.5") == 1.5 and tonumber("1,5") == nil)
check("strings are compared by bytes", "Z" < "a" and "z" < "\xe4")
check("character classes are ASCII's", not string.find("\xe4\xfc", "%a") and string.upper("\xe4") == "\xe4")

-- ---- host ----

check("digest of nothing", host.digest("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
check("digest of a text with a zero", host.digest("a\0b") ~= host.digest("a"))
check("a template that is not there", fails("no templates/nothing.cu.in", host.template, "nothing.cu.in"))
for _, name in ipairs { "../gen/init.lua", "/etc/passwd", "", ".", "..", "a..b", "a/b", "a.", "a\0b", "a b" } do
    check("refuses the template's name " .. name, fails("is not a name", host.template, name))
    check("refuses the module's name " .. name, fails("is not a name", require, name))
end
check("load gives the chunk its names", host.load("return a + b", "@x", { a = 2, b = 3 })() == 5)
check("load gives it no others", fails("attempt to call a nil value (global 'type')", host.load("type(1)", "@x", {})))
check("load reports the chunk's line", fails("x.cu.in:2:", host.load, "local a\nlocal = 1", "@x.cu.in", {}))
check("a running chunk's error has its line",
      fails("x.cu.in:2: wrong", host.load("\nerror 'wrong'", "@x.cu.in", { error = error })))
check("load needs names", fails("table expected", host.load, "return 1", "@x"))
check("load refuses bytecode",
      fails("attempt to load a binary chunk", host.load, "\27Lua\x54\0\x19\x93\r\n\x1a\n", "@x", {}))
check("next of an empty table", host.next({}) == nil)

-- ---- require ----

check("a module that is not there", fails("no gen/a/b.lua", require, "a.b"))
check("a module is loaded once", require "strict" == require "strict")

-- ---- Limits that a script survives ----

check("a runaway string.rep", fails("not enough memory", string.rep, "x", 200 << 20))
check("string.rep of nothing, for ever", fails("too many repetitions", string.rep, "", 1 << 62))
check("table.move for ever", fails("too many elements", table.move, {}, 1, 1 << 62, 2))
check("table.move over the whole range",
      fails("too many elements", table.move, {}, math.mininteger, math.maxinteger, 2))
check("table.move still moves", table.move({ 1, 2, 3 }, 2, 3, 1)[1] == 2)
check("a memory bomb", fails("not enough memory", function()
    local t = {}
    for i = 1, 1 << 40 do t[i] = string.rep("x", 1 << 16) end
end))
check("endless recursion", fails("stack overflow", function()
    local function f() return 1 + f() end
    return f()
end))
check("string.rep still works after that", string.rep("ab", 3, "-") == "ab-ab-ab")

-- ---- table.sort ----

local function shuffled(n)
    local t, x = {}, 12345
    for i = 1, n do
        x = (x * 1103515245 + 12345) % 2147483648
        t[i] = { key = x // 65536 % 17, at = i }
    end
    return t
end
local function sorts(n)
    local t = shuffled(n)
    table.sort(t, function(a, b) return a.key < b.key end)
    for i = 2, n do
        local a, b = t[i - 1], t[i]
        if a.key > b.key or (a.key == b.key and a.at > b.at) then return false end
    end
    return #t == n
end
for _, n in ipairs { 0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 64, 100, 1000 } do
    check("sort of " .. n .. " is stable", sorts(n))
end
local words <const> = { "b", "B", "a", "A", "" }
table.sort(words)
check("sort without an order", table.concat(words, ",") == ",A,B,a,b")
check("sort of what cannot be compared", fails("attempt to compare", table.sort, { 1, "a" }))
check("sort by an order that is none", pcall(table.sort, shuffled(300), function() return true end))
check("sort by a number", fails("function expected", table.sort, {}, 1))
