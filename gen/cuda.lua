-- cuda.lua: helpers for emitted text: types, conversions, literals, names, and the primitives that a text uses.

local strict = require "strict"
local problem = require "problem"
local template = require "template"

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

-- The place of a weight in its filter: of channel `c` of `channels`, and tap `tap` of R * S.
function cuda.weight_at(p, channels, c, tap)
    if p.weights_layout == "krsc" then return tap .. " * " .. channels .. " + " .. c end
    return c .. " * (R * S) + " .. tap
end

-- A float literal that reads back exactly.
function cuda.float(value)
    local text = problem.float(value)
    if not string.find(text, "[.e]") then text = text .. ".0" end
    return text .. "f"
end

local activations = {
    relu = function() return "fmaxf(v, 0.0f)" end,
    leaky_relu = function(p) return "v >= 0.0f ? v : " .. cuda.float(p.alpha) .. " * v" end,
    silu = function() return "v / (1.0f + expf(-v))" end,
    gelu = function() return "0.5f * v * (1.0f + erff(v * 0.70710678f))" end,
    hardswish = function() return "v * fminf(fmaxf(v + 3.0f, 0.0f), 6.0f) / 6.0f" end,
    sigmoid = function() return "1.0f / (1.0f + expf(-v))" end,
    tanh = function() return "tanhf(v)" end,
    clamp = function(p) return "fminf(fmaxf(v, " .. cuda.float(p.alpha) .. "), " .. cuda.float(p.beta) .. ")" end,
}

-- The function of the problem's activation, which is not the identity.
function cuda.activate(p)
    return "__device__ __forceinline__ float activate(float v)\n{\n    return " .. activations[p.activation](p) .. ";\n}\n"
end

-- Functions that take a float, or its bits, apart into two TF32 numbers (Ootomo and Yokota, arXiv 2203.03341).
function cuda.tf32_parts()
    return [[
// A float is the sum of two TF32 numbers: the nearest, and what that leaves, whose bits below 2^-22 of the float tensor cores drop.
// Truncation would do instead of rounding, but its errors all have one direction, and add up. Infinities leave nothing.
__device__ __forceinline__ unsigned big_part(unsigned bits) { return (bits + 0x1000u) & 0xffffe000u; }
__device__ __forceinline__ unsigned small_part(unsigned bits)
{
    const float big = __uint_as_float(big_part(bits));
    return fabsf(big) > 3.402823466e38f ? 0u : __float_as_uint(__uint_as_float(bits) - big);
}
__device__ __forceinline__ float big_part(float v) { return __uint_as_float(big_part(__float_as_uint(v))); }
__device__ __forceinline__ float small_part(float v) { return __uint_as_float(small_part(__float_as_uint(v))); }
]]
end

-- A function that takes the small part of a weight, and with it makes up for what tensor cores leave out.
function cuda.weight_rest()
    return [[
// The small part of a weight. Tensor cores truncate what they sum, toward zero: on average it is short by 1.3 * 2^-24 of itself. That
// is less than a rounding, but over the layers of a network it adds up, as roundings do not; so weights are larger by as much. Those
// of up to 20 bits, such as integers, stay what they are: exact sums lose nothing.
__device__ __forceinline__ unsigned weight_rest(unsigned bits)
{
    const unsigned rest = small_part(bits);
    return bits & 15u ? __float_as_uint(fmaf(__uint_as_float(bits), 1.3f * 0x1p-24f, __uint_as_float(rest))) : rest;
}
__device__ __forceinline__ float weight_rest(float v) { return __uint_as_float(weight_rest(__float_as_uint(v))); }
]]
end

-- Text as part of a C identifier.
function cuda.identifier(text)
    return (string.gsub(text, "[^%w_]", { ["."] = "p", ["-"] = "m", ["+"] = "" }))
end

-- ---- Primitives ----

-- The values that a choice in a family's name allows: "ss,rs", "8,16..256" or "1..5".
local function choices(text)
    local values = {}
    local first, second, last = string.match(text, "^(%d+),?(%d*)%.%.(%d+)$")
    if first then
        local step = second == "" and 1 or second - first
        for i = math.tointeger(first), math.tointeger(last), math.tointeger(step) do values[#values + 1] = i end
        return values
    end
    for value in string.gmatch(text .. ",", "([^,]*),") do values[#values + 1] = math.tointeger(value) or value end
    return values
end

-- For the text of a family: string.format(form, i) for i from first to last, with commas. wrap: what ends a long line.
local function list(form, first, last, wrap)
    local out, column = {}, 0
    for i = first, last do
        local item = string.format(form, i) .. (i < last and "," or "")
        column = column + #item + 1
        local ends = wrap and column > 84
        out[#out + 1] = item .. (i == last and "" or ends and wrap or " ")
        if ends then column = 0 end
    end
    return table.concat(out)
end

-- primitives: name -> { order, text } or, in a family, { order, block, env }.  families: the word before the first '_' of a
-- name -> the families that begin with it; their members are added when first named.
local primitives, families

-- What the choices in a family's name, such as "ldmatrix_x{X=1,2,4}{T=,_trans}", are in the member `word`: { X = 2, T = "" }, and
-- the member's number; nil if it is none. (Spelling out hundreds of members, of which a kernel names one, would take longer
-- than the rest of a generation.)
local function member(name, word, number)
    local before, key, values, after = string.match(name, "^(.-){(%u)=(.-)}(.*)$")
    if not before then
        if word == name then return {}, number end
        return nil
    end
    if string.sub(word, 1, #before) ~= before then return nil end
    local list_of = choices(values)
    for i, value in ipairs(list_of) do
        local last = #before + #tostring(value)
        if string.sub(word, #before + 1, last) == tostring(value) then
            local env, found = member(after, string.sub(word, last + 1), number * #list_of + i - 1)
            if env then
                env[key] = value
                return env, found
            end
        end
    end
end

local function add_block(block)
    if not block then return end
    block.text = string.gsub(table.concat(block.lines, "\n"), "\n*$", "\n", 1)
    if not string.find(block.name, "{", 1, true) then
        primitives[block.name] = { order = block.order, text = block.text }
        return
    end
    local word = string.match(block.name, "^%l+")
    families[word] = families[word] or {}
    table.insert(families[word], block)
end

local function read_primitives()
    primitives, families = {}, {}
    local block, number = nil, 0
    for line in string.gmatch(host.template("primitives.cuh"), "([^\n]*)\n") do
        number = number + 1
        local name = string.match(line, "^//: (.+)$")
        if name then
            add_block(block)
            block = { name = name, line = number + 1, order = 10000 * number, lines = {} }
        elseif block and not string.find(line, "^// %-%-%-%- ") then
            block.lines[#block.lines + 1] = line
        end
    end
    add_block(block)
end

local function find(word)
    if primitives[word] then return primitives[word] end
    for _, block in ipairs(families[string.match(word, "^%l+") or ""] or {}) do
        local env, number = member(block.name, word, 0)
        if env then
            env.list = list
            primitives[word] = { order = block.order + number, block = block, env = env }
        end
    end
    return primitives[word]
end

-- The text of a primitive; a member of a family is rendered when first wanted.
local function text_of(primitive)
    if not primitive.text then
        local block = primitive.block
        primitive.text = template.render_text(block.text, "templates/primitives.cuh", block.line, primitive.env)
    end
    return primitive.text
end

-- The definitions of every primitive that `text` names, or that one of those names, in the order of primitives.cuh.
function cuda.primitives(text)
    if not primitives then read_primitives() end
    local seen, wanted = {}, {}
    local function add(part)
        for word in string.gmatch((string.gsub(part, "//[^\n]*", "")), "[%a_][%w_]*") do
            if not seen[word] then
                seen[word] = true
                local primitive = find(word)
                if primitive then
                    wanted[#wanted + 1] = primitive
                    add(text_of(primitive))
                end
            end
        end
    end
    add(text)
    table.sort(wanted, function(a, b) return a.order < b.order end)
    local out = {}
    for i, primitive in ipairs(wanted) do out[i] = text_of(primitive) .. "\n" end
    return table.concat(out)
end

-- A kernel's text with the primitives that it names in front, which the emulated device has twins of.
function cuda.with_primitives(body)
    local used = cuda.primitives(body)
    if used == "" then return body end
    return "// What is PTX, and the emulated device has a twin of.\n#ifndef CONVJIT_EMU\n" .. used ..
           "#endif  // CONVJIT_EMU\n\n" .. body
end

-- a and b rounded up
function cuda.ceildiv(a, b) return (a + b - 1) // b end
function cuda.roundup(a, b) return (a + b - 1) // b * b end

-- The largest power of two, at most `most`, that divides n.
function cuda.power_in(n, most)
    local power = 1
    while power < most and n % (2 * power) == 0 do power = 2 * power end
    return power
end

return strict.seal(cuda, "cuda")
