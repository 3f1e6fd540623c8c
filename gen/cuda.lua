-- cuda.lua: helpers for emitted text: types, conversions, literals, names, and the primitives that a text uses.

local strict = require "strict"
local problem = require "problem"

local cuda = {}

-- How a tensor element of each math mode is stored, and what converts it from and to the float of the arithmetic.
local types = {
    f32  = { name = "float", load = "", store = "" },
    tf32 = { name = "float", load = "", store = "" },
    f16  = { name = "unsigned short", load = "f16_to_f32", store = "f32_to_f16" },
    bf16 = { name = "unsigned short", load = "bf16_to_f32", store = "f32_to_bf16" },
}

-- The C type of a stored element.
function cuda.storage(mode) return types[mode].name end

-- Expressions that turn a stored element into a float, and a float into a stored element.
function cuda.load(mode, expression)
    return types[mode].load == "" and expression or types[mode].load .. "(" .. expression .. ")"
end

function cuda.store(mode, expression)
    return types[mode].store == "" and expression or types[mode].store .. "(" .. expression .. ")"
end

-- A float literal that reads back exactly.
function cuda.float(value)
    local text = problem.float(value)
    if not string.find(text, "[.e]") then text = text .. ".0" end
    return text .. "f"
end

-- Text as part of a C identifier.
function cuda.identifier(text)
    return (string.gsub(text, "[^%w_]", { ["."] = "p", ["-"] = "m", ["+"] = "" }))
end

local primitives -- name -> text, and the names in the order of the file

local function read_primitives()
    primitives = { text = {}, order = {} }
    local name
    for line in string.gmatch(host.template("primitives.cuh"), "([^\n]*)\n") do
        local begins = string.match(line, "^//: ([%w_]+)$")
        if begins then
            name = begins
            primitives.order[#primitives.order + 1] = name
            primitives.text[name] = ""
        elseif name then
            primitives.text[name] = primitives.text[name] .. line .. "\n"
        end
    end
end

local function uses(text, name)
    return string.find(text, "%f[%w_]" .. name .. "%f[^%w_]") ~= nil
end

-- The definitions of every primitive that `text` names, or that one of those names, in the order of primitives.cuh.
function cuda.primitives(text)
    if not primitives then read_primitives() end
    local wanted = {}
    for i = #primitives.order, 1, -1 do -- a primitive uses only earlier ones
        local name = primitives.order[i]
        if uses(text, name) then
            wanted[#wanted + 1] = name
            text = text .. primitives.text[name]
        end
    end
    local out = {}
    for i = #wanted, 1, -1 do out[#out + 1] = primitives.text[wanted[i]] end
    return table.concat(out)
end

-- a and b rounded up
function cuda.ceildiv(a, b) return (a + b - 1) // b end
function cuda.roundup(a, b) return (a + b - 1) // b * b end

return strict.seal(cuda, "cuda")
