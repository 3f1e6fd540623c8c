-- launch.lua: what the launch tables of all schedules have in common: arguments, limits of N, H and W, remembered shapes.

local launch = {}

local INT_MAX <const> = 2147483647
local MOST_PIXELS <const> = 1 << 30 -- of a row or column, padding included: coordinates are 32-bit and may pass the end

launch.MOST_PIXELS = MOST_PIXELS

-- One argument of a kernel: { kind = "input"|"weights"|"bias"|"residual"|"output"|"workspace"|"packed"|"i32"|"i64", expr = }.
function launch.arg(kind, expr) return { kind = kind, expr = expr } end

-- The arguments of a kernel that writes y: `operands`, then bias and residual if the problem has them, the output, and 32-bit
-- integers that are given as expressions of N, H, W, P and Q. `output`: the output's tensor map, if it is not a pointer.
function launch.args(p, operands, integers, output)
    local args = {}
    for _, each in ipairs(operands) do args[#args + 1] = each end
    if p.bias then args[#args + 1] = { kind = "bias" } end
    if p.residual then args[#args + 1] = { kind = "residual" } end
    args[#args + 1] = output or { kind = "output" }
    for _, expr in ipairs(integers) do args[#args + 1] = { kind = "i32", expr = expr } end
    return args
end

-- What N, H and W must satisfy for 32-bit coordinates that pass the padded image by `below` rows and `beyond` columns, and,
-- unless `wide`, for 32-bit offsets within an image.
function launch.requires(p, below, beyond, wide)
    local list = { {
        expr = string.format("H + %d <= %d && W + %d <= %d", p.pad_top + p.pad_bottom + below, MOST_PIXELS,
                             p.pad_left + p.pad_right + beyond, MOST_PIXELS),
        why = "padded height and width must stay below 2^30",
    } }
    if not wide then list[2] = launch.narrow(p) end
    return list
end

-- What N, H and W must satisfy for 32-bit offsets within an image.
function launch.narrow(p)
    return {
        expr = string.format("%d * H * W <= %d && %d * P * Q <= %d", p.c, INT_MAX, p.k, INT_MAX),
        why = "an image of 2^31 elements or more needs 64-bit offsets",
    }
end

-- derive(p, parameters, target), worked out once for each parameter table: check, time, explain and launch all ask for it. Only
-- those of the latest problem are kept.
function launch.remember(derive)
    local problem, shapes
    return function(p, parameters, target)
        if p ~= problem then problem, shapes = p, {} end
        local known = shapes[parameters]
        if not known then
            known = derive(p, parameters, target)
            shapes[parameters] = known
        end
        return known
    end
end

return launch
