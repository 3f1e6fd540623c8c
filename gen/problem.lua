-- problem.lua: a problem's derived sizes and its canonical text; refuses what makes no sense.
--
-- The runtime has checked the problem before (convjit_problem_check), with exact messages. The checks here are for callers of
-- the generator alone, and guard the assumptions that schedules make.

local strict = require "strict"

local problem = {}

local function refuse(...)
    error({ status = "invalid", message = string.format(...) })
end

-- The shortest decimal that reads back as the same float (nine digits always do).
function problem.float(value)
    for digits = 1, 9 do
        local text = string.format("%." .. digits .. "g", value)
        -- "-0" would be read as an integer, which has no sign to keep
        local read = tonumber(string.find(text, "[.e]") and text or text .. ".0")
        if string.pack("<f", read) == string.pack("<f", value) then return text end
    end
    refuse("%s is not a finite float", tostring(value))
end

local function pair(name, a, b, default)
    if a == default and b == default then return "" end
    if a == b then return "_" .. name .. a end
    return "_" .. name .. a .. "x" .. b
end

local function padding(p)
    if p.pad_top == p.pad_bottom and p.pad_left == p.pad_right then return pair("pad", p.pad_top, p.pad_left, 0) end
    return string.format("_pad%dx%dx%dx%d", p.pad_top, p.pad_left, p.pad_bottom, p.pad_right)
end

local function activation(p)
    if p.activation == "identity" then return "" end
    if p.activation == "clamp" then return "_clamp" .. problem.float(p.alpha) .. "x" .. problem.float(p.beta) end
    if p.activation == "leaky_relu" and string.pack("<f", p.alpha) ~= string.pack("<f", 0.01) then
        return "_leaky_relu" .. problem.float(p.alpha)
    end
    return "_" .. p.activation
end

-- The fields behind the sizes, in canonical order, each with its '_'.
local function fields(p)
    return pair("stride", p.stride_h, p.stride_w, 1) .. padding(p) .. pair("dil", p.dil_h, p.dil_w, 1) ..
           (p.groups == 1 and "" or "_g" .. p.groups) .. (p.math == "f32" and "" or "_" .. p.math) ..
           (p.layout == "nchw" and "" or "_" .. p.layout) ..
           (p.weights_layout == "kcrs" and "" or "_" .. p.weights_layout) .. (p.bias and "_bias" or "") .. activation(p) ..
           (p.residual and "_residual" or "")
end

-- What a kernel is specialised on: the problem string without N, H and W.
function problem.tuple(p)
    return string.format("c%dk%dr%ds%d", p.c, p.k, p.r, p.s) .. fields(p)
end

-- The problem string of the smallest input that the filter fits on. It names the tuple in commands whose schedule is given
-- in full, so that N, H and W do not matter.
function problem.smallest(p)
    local h = math.max(1, p.dil_h * (p.r - 1) + 1 - p.pad_top - p.pad_bottom)
    local w = math.max(1, p.dil_w * (p.s - 1) + 1 - p.pad_left - p.pad_right)
    return string.format("n1c%dh%dw%dk%dr%ds%d", p.c, h, w, p.k, p.r, p.s) .. fields(p)
end

local INT_MAX <const> = 2147483647

local function output(size, before, after, dilation, taps, stride)
    return (size + before + after - dilation * (taps - 1) - 1) // stride + 1
end

-- The problem with its derived fields: p and q (output height and width), cg and kg (channels and filters of one group),
-- bytes (of an element), wide (an image of x or y has 2^31 elements or more). Its weights are kcrs where krsc is the same memory.
function problem.of(given)
    for _, name in ipairs { "n", "c", "h", "w", "k", "r", "s", "stride_h", "stride_w", "dil_h", "dil_w", "groups" } do
        if math.type(given[name]) ~= "integer" or given[name] < 1 then
            refuse("%s is %s; at least 1", name, tostring(given[name]))
        end
    end
    for _, name in ipairs { "pad_top", "pad_left", "pad_bottom", "pad_right" } do
        if math.type(given[name]) ~= "integer" or given[name] < 0 then
            refuse("%s is %s; at least 0", name, tostring(given[name]))
        end
    end
    if given.c % given.groups ~= 0 or given.k % given.groups ~= 0 then
        refuse("groups %d does not divide c %d and k %d", given.groups, given.c, given.k)
    end
    local p = strict.with(given, {
        p = output(given.h, given.pad_top, given.pad_bottom, given.dil_h, given.r, given.stride_h),
        q = output(given.w, given.pad_left, given.pad_right, given.dil_w, given.s, given.stride_w),
        cg = given.c // given.groups,
        kg = given.k // given.groups,
        bytes = (given.math == "f32" or given.math == "tf32") and 4 or 2,
    })
    if p.p < 1 or p.q < 1 then refuse("the filter is larger than the padded input") end
    if p.cg == 1 or p.r == 1 and p.s == 1 then p.weights_layout = "kcrs" end
    p.wide = p.c * p.h * p.w > INT_MAX or p.k * p.p * p.q > INT_MAX
    return strict.seal(p, "problem")
end

return problem
