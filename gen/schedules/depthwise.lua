-- depthwise.lua: depthwise convolution: one input channel for each filter, so that memory, not arithmetic, is the floor.
--
-- A tile is `tp` rows x `tq` columns of outputs of `tc` channels and `ni` images. Its input patch, halo included, is copied to shared
-- memory, each pixel once. A block takes tile after tile, of the same channels as far as possible, and copies `stages` - 1 tiles
-- ahead, by tensor copies (copy=1), which leave no work to threads, or by bulk copies of whole rows (copy=3), which are faster where
-- these are long, or else by cp.async (copy=0). Where rows are no multiples of 16 bytes, but the planes of a few channels are, bulk
-- copies bring them, and threads spread them (copy=2). Where all of a row is one tile's, the outputs of its rows follow each other in
-- memory: gathered in shared memory, they leave by bulk copies, too (copy=4), which need no rows of 16 bytes.
-- Outputs are computed in one of three ways:
--   mm=0  FMAs, for f32 and tf32: a thread has rt rows x ct columns of outputs, and a window of a patch row in registers serves all
--         taps; where channels are innermost, neighbouring threads take neighbouring channels.
--   mm=1  banded matrices, for f16 and bf16: the patch is a plane a channel; a warp multiplies 16 rows x 16 columns of it with a
--         filter row as a matrix of 16 x 8 output columns (Toeplitz). Entries beside the band are zeros.
--   mm=2  diagonal matrices, for f16 and bf16 in nhwc: a warp multiplies 16 pixels x 8 channels for each of two taps with a matrix of
--         16 x 8 that has the weights of both taps on its diagonals; a patch row serves all of `rt` rows of outputs. A warp keeps
--         its 8 channels, and their matrices in registers; outputs leave by tensor copies if the input comes by them.
-- The matrices waste most of what tensor cores can do, and still are several times faster than FMAs and conversions. An infinity or
-- NaN in x times one of their zeros is NaN: it may spread to outputs up to 15 columns, or 7 channels, beside those it belongs to.

local cost = require "cost"
local cuda = require "cuda"
local launch = require "launch"

local ceildiv <const>, roundup <const>, power_in <const> = cuda.ceildiv, cuda.roundup, cuda.power_in
local min <const>, max <const>, ipairs <const> = math.min, math.max, ipairs

local depthwise = {}

depthwise.parameters = {
    { "mm", 0, 2 },      -- how: FMAs, banded or diagonal matrices
    { "copy", 0, 4 },    -- by cp.async, tensor copies, bulk copies of whole planes, of rows, or of rows and of outputs
    { "tc", 1, 256 },    -- channels of a tile
    { "ni", 1, 64 },     -- images
    { "tp", 1, 1024 },   -- rows
    { "tq", 1, 2048 },   -- columns
    { "rt", 1, 16 },     -- rows of a thread (mm=0) or of a warp
    { "ct", 1, 64 },     -- columns of a thread (mm=0) or of a warp
    { "warps", 1, 16 },
    { "vec", 2, 16 },    -- bytes of a load of x: along a row, or along the channels where these are innermost
    { "stages", 1, 4 },  -- patches in shared memory
    { "wide", 0, 1 },    -- 64-bit offsets within an image
}

local FMA <const>, BAND <const>, DIAGONAL <const> = 0, 1, 2         -- mm
local ASYNC <const>, TENSOR <const>, PLANES <const>, LINES <const>, RUNS <const> = 0, 1, 2, 3, 4   -- copy
local MOST_WINDOW <const> = 64     -- registers of a window
local MOST_UNROLLED <const> = 1400 -- FMAs of an unrolled loop body: NVRTC takes about 0.1 ms for each
local MOST_TAPS <const> = 64       -- weights in registers
local MOST_STEPS <const> = 8       -- products along a filter row
local MOST_BOX <const> = 256       -- elements of a tensor copy along an axis
local RESERVED <const> = 256       -- bytes for barriers
local SECTOR <const>, BURST <const> = 32, 64   -- bytes that the L2 cache, and memory, move at least

function depthwise.applies(p, t)
    if p.cg ~= 1 or p.groups == 1 then return false, string.format("%d channels a group; depthwise convolution has one", p.cg) end
    return true
end

-- A pitch in 16-byte units, at least `least`, at which the 8 lanes that share a wavefront of 16-byte reads meet in few banks:
-- lane i reads unit units[i] of line lines[i].
local function quiet_pitch(least, lines, units)
    local best, best_pitch = 9, least
    for pitch = least, least + 7 do
        local worst = 0
        local counts = { 0, 0, 0, 0, 0, 0, 0, 0 }
        for i = 1, 8 do
            local bank = (lines[i] * pitch + units[i]) % 8 + 1
            counts[bank] = counts[bank] + 1
            worst = max(worst, counts[bank])
        end
        if worst < best then best, best_pitch = worst, pitch end
        if best == 1 then break end
    end
    return best_pitch
end

local shapes <const> = {}   -- by mm: what is particular to it

-- Planes whose rows are read 16 bytes at a time, or, where channels are innermost, pixels.
shapes[FMA] = function(p, s, d, nhwc)
    d.window = d.shift + (s.ct - 1) * p.stride_w + (p.s - 1) * p.dil_w + 1
    d.tap_pitch = p.s
    if nhwc then
        d.cols = d.needed
        d.pitch = d.cols * s.tc
    else
        d.window, d.tap_pitch = roundup(d.window, 4), roundup(p.s, 4)
        d.cols = (s.tq - s.ct) * p.stride_w + d.window
        local lines, units, across = {}, {}, s.tq // s.ct
        for i = 0, 7 do
            lines[i + 1], units[i + 1] = i // across * s.rt * p.stride_h, i % across * s.ct * p.stride_w // 4
        end
        d.cols = max(d.cols, roundup(d.needed, 4))
        d.pitch = 4 * quiet_pitch(d.cols // 4, lines, units)
        if s.copy == TENSOR then d.cols = d.pitch end
    end
    d.items = d.filters * (s.ni * s.tp // s.rt) * (s.tq // s.ct)        -- one a thread
    d.unrolled = p.r * p.s * s.rt * s.ct <= MOST_UNROLLED and p.r * p.s <= MOST_TAPS
    d.weight_bytes = d.filters * p.r * d.tap_pitch * 4
    d.registers = 40 + s.rt * s.ct + d.window + (d.unrolled and p.r * d.tap_pitch or d.tap_pitch)
    d.out_bytes = nhwc and 0 or s.warps * 32 * s.rt * s.ct * 4          -- for the outputs of each thread
end

-- Planes whose rows are whole blocks of 8 columns.
shapes[BAND] = function(p, s, d, nhwc)
    d.steps = ceildiv(d.shift + 7 * p.stride_w + (p.s - 1) * p.dil_w + 1, 16)
    d.blocks = p.stride_w * (s.ct // 8 - 1) + 2 * d.steps               -- of 8 columns, that a warp multiplies
    d.cols = max((s.tq - s.ct) * p.stride_w + 8 * d.blocks, roundup(d.needed, 8))
    d.pitch = d.cols // 8 % 2 == 1 and d.cols or d.cols + 8             -- 8 rows of ldmatrix lie in different banks
    if s.copy == TENSOR then d.cols = d.pitch end
    d.flat = roundup(s.ni * s.tp, 16)
    d.items = d.filters * (d.flat // 16) * (s.tq // s.ct)               -- one a warp
    d.table = 16 * d.steps + 7 * p.stride_w
    d.weight_bytes = d.filters * p.r * d.table * 4
    d.registers = 48 + s.ct // 2 + 2 * d.blocks + 2 * d.steps
    if nhwc then
        d.out_pitch = s.tq // 8 % 2 == 1 and s.tq or s.tq + 8
        d.out_plane = d.flat * d.out_pitch
    else
        d.out_pitch = s.ct + 8                                          -- each warp has its own part
        d.out_bytes = s.warps * 16 * d.out_pitch * p.bytes
    end
end

-- Pixels, swizzled: 8 rows of ldmatrix lie in different banks.
shapes[DIAGONAL] = function(p, s, d)
    -- with whole blocks of 8 pixels to a row, one row is swizzled like the next
    d.cols = roundup(d.needed, 8)
    if s.tc == 8 or d.cols > 1.1 * d.needed then d.cols = d.needed end
    d.alike = s.tc == 8 or d.cols % 8 == 0
    d.pitch = d.cols * s.tc
    d.tap_pairs = ceildiv(p.s, 2)
    d.items = s.ni * (s.tp * s.ct // (s.rt * 16)) * (s.tq // s.ct) * (s.tc // 8)   -- one a warp
    d.weight_bytes = s.tc * p.r * d.tap_pairs * 4
    d.out_tile = roundup(s.ni * s.tp * s.tq * s.tc * p.bytes, 1024)
    d.out_stages = s.copy == TENSOR and s.stages > 1 and 2 or 1
    d.out_bytes = d.out_stages * d.out_tile
    d.registers = 72 + 6 * s.rt + p.r * d.tap_pairs * 13 // 5
end

-- Everything that follows from the problem's constants and the parameters, and not from N, H, W. The names are the template's.
local function derive(p, s, t)
    local nhwc = p.layout == "nhwc"
    local d = { threads = 32 * s.warps, filters = s.tc * p.kg, tiles_c = ceildiv(p.c, s.tc), elements = s.vec // p.bytes }
    d.shift = nhwc and 0 or -p.pad_left % d.elements     -- patch columns in front of the first that is wanted, for aligned loads
    d.rows = (s.tp - 1) * p.stride_h + (p.r - 1) * p.dil_h + 1
    d.needed = d.shift + (s.tq - 1) * p.stride_w + (p.s - 1) * p.dil_w + 1
    if s.copy >= LINES then d.needed = d.needed + p.stride_w - 1 end     -- all of W, and not only what outputs depend on
    d.planes = s.mm == BAND or not nhwc
    d.k_elements = min(power_in(p.k, 16 // p.bytes), power_in(d.filters, 16 // p.bytes))   -- of a store along the channels
    shapes[s.mm](p, s, d, nhwc)
    if d.planes then
        d.plane = d.rows * d.pitch
        if nhwc then
            -- lanes that write, or read, neighbouring channels of neighbouring pixels then meet in no bank
            local function spread(plane, lanes)
                local words, wider = lanes <= 2 and 16 or lanes <= 4 and 8 or 4, plane
                for _ = 1, 8 do   -- by 16 bytes at a time, once around the banks
                    if wider * p.bytes // 4 % 32 == words then return wider end
                    wider = wider + 16 // p.bytes
                end
                return plane
            end
            d.plane = spread(d.plane, s.tc // d.elements)
            d.out_plane = spread(d.out_plane, d.filters // d.k_elements)
            d.out_bytes = d.filters * d.out_plane * p.bytes
        end
        d.image = s.tc * d.plane
    else
        d.image = d.rows * d.pitch
    end
    if s.copy == RUNS then
        d.run = roundup(s.tp * s.tq + 16 // p.bytes - 1, 16 // p.bytes)
        d.out_bytes = roundup(s.ni * d.filters * d.run * p.bytes, 128)
    end
    d.copied = s.ni * d.image * p.bytes
    d.patch_bytes = roundup(d.copied, (s.copy == TENSOR or s.mm == DIAGONAL) and 1024 or 128)
    d.weight_bytes = roundup(d.weight_bytes, s.mm == DIAGONAL and 1024 or 16)   -- behind it outputs, perhaps swizzled
    d.smem = s.stages * d.patch_bytes + d.weight_bytes + d.out_bytes + (s.copy ~= ASYNC and RESERVED or 0)
    if s.copy == PLANES then
        -- the largest image that has tp x tq outputs, as it is in memory, and its outputs
        d.most_h = d.rows - p.pad_top - p.pad_bottom + p.stride_h - 1
        d.most_w = (s.tq - 1) * p.stride_w + (p.s - 1) * p.dil_w + p.stride_w - p.pad_left - p.pad_right
        d.raw_bytes = roundup(s.ni * s.tc * d.most_h * d.most_w * p.bytes, 128)
        d.out_bytes = roundup(s.ni * d.filters * s.tp * s.tq * p.bytes, 128)
        d.smem = s.stages * d.raw_bytes + d.patch_bytes + d.weight_bytes + d.out_bytes + RESERVED
    end
    d.registers = min(roundup(d.registers + (s.copy == TENSOR and 0 or s.copy == ASYNC and s.mm == FMA and 24 or 16), 8), 255)
    d.resident = max(1, cost.occupancy(t, d.threads, d.registers, d.smem))
    return d
end

local shape <const> = launch.remember(derive)

local checks <const> = {}   -- by mm, likewise

checks[FMA] = function(p, s)
    if p.bytes ~= 4 then return "FMAs are for f32 and tf32" end
    if s.tp % s.rt ~= 0 then return string.format("tp %d is no multiple of rt %d", s.tp, s.rt) end
    if p.layout == "nchw" and s.ct % 4 ~= 0 then return string.format("ct is %d; a multiple of 4", s.ct) end
    return nil, function(d)
        if d.window > MOST_WINDOW then return string.format("a window of %d columns; at most %d", d.window, MOST_WINDOW) end
        local unrolled = p.s * s.ct * s.rt * (d.unrolled and p.r or 1)
        if unrolled > MOST_UNROLLED then return string.format("%d unrolled FMAs; at most %d", unrolled, MOST_UNROLLED) end
    end
end

checks[BAND] = function(p, s)
    if p.bytes ~= 2 then return "matrices are for f16 and bf16" end
    if s.rt ~= 16 or s.ct < 8 or s.ct & (s.ct - 1) ~= 0 then
        return string.format("a warp takes 16 rows x 8, 16, 32 or 64 columns, not %d x %d", s.rt, s.ct)
    end
    if p.layout == "nhwc" and s.copy == TENSOR then return "tensor copies do not transpose" end
    if p.layout == "nhwc" and s.stages > 1 then return "what is transposed is not copied ahead" end
    return nil, function(d)
        if d.steps > MOST_STEPS then return string.format("%d products for each filter row; at most %d", d.steps, MOST_STEPS) end
        if d.blocks > 24 then return string.format("%d blocks of columns in registers; at most 24", d.blocks) end
    end
end

checks[DIAGONAL] = function(p, s)
    if p.bytes ~= 2 or p.layout ~= "nhwc" or p.kg ~= 1 then
        return "diagonal matrices are for f16 and bf16 in nhwc, one filter a channel"
    end
    if s.ct ~= 8 and s.ct ~= 16 then return string.format("ct is %d; 8 or 16 columns of a warp", s.ct) end
    if s.tp % (s.rt * 16 // s.ct) ~= 0 then
        return string.format("tp %d is no multiple of the %d rows of a warp", s.tp, s.rt * 16 // s.ct)
    end
    if s.tc ~= 8 and s.tc ~= 16 and s.tc ~= 32 and s.tc ~= 64 then return string.format("tc is %d; 8, 16, 32 or 64", s.tc) end
    if s.warps % (s.tc // 8) ~= 0 then return string.format("%d warps do not share %d channels, 8 a warp", s.warps, s.tc) end
    if p.r * ceildiv(p.s, 2) > 32 then return string.format("the weights of %d taps do not fit the registers", p.r * p.s) end
    if s.rt > 8 then return string.format("rt is %d; at most 8", s.rt) end
end

function depthwise.check(p, t, s)
    local ok, reason = depthwise.applies(p, t)
    if not ok then return reason end
    if s.vec & (s.vec - 1) ~= 0 or s.vec < p.bytes then
        return string.format("vec is %d; a power of two, at least %d", s.vec, p.bytes)
    end
    local nhwc, elements = p.layout == "nhwc", s.vec // p.bytes
    if nhwc and (p.c % elements ~= 0 or s.tc % elements ~= 0) then
        return string.format("loads of %d channels do not divide %d, %d of a tile", elements, p.c, s.tc)
    end
    if s.copy ~= ASYNC and tonumber(string.match(t.arch, "%d+")) < 90 then return "bulk and tensor copies need sm_90" end
    if s.copy == PLANES and (nhwc or p.c % s.tc ~= 0) then return string.format("no planes of %d channels", s.tc) end
    if s.copy >= LINES and nhwc then return "rows of pixels are not copied by themselves" end
    if s.copy >= LINES and s.vec ~= 16 then return "bulk copies of rows need vec=16" end
    if s.copy == TENSOR then
        if s.vec ~= 16 then return "tensor copies need vec=16" end
    end
    if not nhwc and s.copy ~= PLANES and s.tq * p.stride_w % elements ~= 0 then
        return string.format("a tile of %d columns is no multiple of loads of %d", s.tq, elements)
    end
    if s.tq % s.ct ~= 0 then return string.format("tq %d is no multiple of ct %d", s.tq, s.ct) end
    local wrong, rest = checks[s.mm](p, s)
    if wrong then return wrong end
    local d = shape(p, s, t)
    if s.copy == PLANES and (d.most_h < 1 or d.most_w < 1) then return "tiles are for larger images" end
    if s.copy == TENSOR and max(s.tc, s.ni, d.rows, d.planes and d.pitch or d.cols, s.tq) > MOST_BOX then
        return string.format("a patch of %d channels x %d rows x %d columns; a tensor copy takes at most %d along an axis",
                             s.tc, d.rows, d.cols, MOST_BOX)
    end
    wrong = rest and rest(d)
    if wrong then return wrong end
    if d.smem > t.smem_block then return string.format("%d bytes of shared memory; at most %d", d.smem, t.smem_block) end
    if s.wide == 0 and p.wide then return "an image of 2^31 elements or more needs wide=1" end
    if cost.occupancy(t, d.threads, d.registers, d.smem) < 1 then return "the registers of a block do not fit" end
end

-- Multiples of `unit` that are worth considering along an axis of `length` outputs: all of it if that is at most `most`, and parts;
-- multiples of 7 for multiples of 7.
local function extents(length, unit, most, parts)
    local list, whole = {}, roundup(length, unit)
    if whole <= most then list[1] = whole end
    for _, part in ipairs(parts) do
        local even = part % 7 ~= 0 or length % 7 == 0 or unit % 7 == 0
        if even and part % unit == 0 and part < whole and part <= most then list[#list + 1] = part end
    end
    return list
end

-- The ways of copying that this image allows, best first, each with the bytes of a load.
local function copies(p, t)
    local generation = tonumber(string.match(t.arch, "%d+"))
    local bulk = generation >= 90
    local tensor = bulk and generation < 120   -- for sm_120's, ptxas keeps a word in local memory
    if p.layout == "nhwc" then
        local vec = power_in(p.c * p.bytes, 16)
        return tensor and vec == 16 and { { TENSOR, 16 } } or { { ASYNC, vec } }
    end
    local vec = power_in(p.w * p.bytes, 16)
    if vec == 16 and p.q <= 128 and tensor then return { { TENSOR, 16 } } end
    if vec == 16 and p.q <= 1024 and bulk then return { { RUNS, 16 }, { LINES, 16 } } end
    if vec < 16 and p.h * p.w <= 1600 and p.p * p.q <= 1600 and bulk then return { { PLANES, vec }, { ASYNC, vec } } end
    return { { ASYNC, vec } }
end

local LEAST_OUTPUTS <const>, MOST_OUTPUTS <const> = 1000, 20000   -- of a tile, if there are enough channels

-- Channels of a tile with that many pixels: powers of two, which for whole planes make multiples of 16 bytes.
local function channels(p, mm, copy, pixels)
    local list, nhwc = {}, p.layout == "nhwc"
    for _, tc in ipairs(mm == DIAGONAL and { 16, 32 } or nhwc and { 16, 32, 64 } or
                            mm == FMA and copy == RUNS and { 2, 4 } or { 1, 2, 4, 8, 16, 32 }) do
        local whole = p.c % tc == 0 and tc * p.h * p.w * p.bytes % 16 == 0 and tc * p.kg * p.p * p.q * p.bytes % 16 == 0
        local size = tc * pixels
        local fits = (size >= LEAST_OUTPUTS or 2 * tc > p.c or p.n == 1) and (size <= MOST_OUTPUTS or tc == 1)
        if fits and tc < 2 * p.c and (copy ~= PLANES or whole) then list[#list + 1] = tc end
    end
    if nhwc and (p.c < 16 or #list == 0 or p.r * p.s > 150) then list[#list + 1] = 8 end
    return list
end

-- Rows and columns of a thread or warp.
local function outputs(p, mm)
    if mm == BAND then
        local list = {}
        for _, ct in ipairs { 64, 32, 16, 8 } do
            if ct < 2 * p.q + 8 and #list < 2 then list[#list + 1] = { 16, ct } end
        end
        return list
    elseif mm == DIAGONAL then
        local ct = (roundup(p.q, 16) - p.q) * 8 > p.q and 8 or 16
        return p.p >= 16 and { { 4, ct }, { 2, ct }, { 7, ct } } or { { 2, ct }, { 4, ct } }
    elseif p.r * p.s > 150 then
        return { { 1, 8 }, { 1, 16 }, { 2, 8 } }
    elseif p.layout == "nhwc" then
        return p.p % 7 == 0 and { { 4, 4 }, { 2, 7 }, { 2, 4 }, { 7, 4 } } or { { 4, 4 }, { 4, 8 }, { 2, 4 } }
    end
    if p.p % 7 == 0 then return p.r >= 7 and { { 4, 4 }, { 7, 4 } } or { { 4, 4 }, { 2, 4 } } end
    return { { 4, 4 }, { 8, 4 }, { 2, 4 } }
end

-- Up to `most` warps that share items with the least waste; more if it is the same.
local function balanced(items, most)
    local best, least = 1, math.huge
    for warps = min(items, most), 1, -1 do
        local waste = ceildiv(items, warps) * warps / items
        if waste < least - 0.04 then best, least = warps, waste end
    end
    return best
end

-- Whether one of the candidates can be.
local function any_possible(p, t, list)
    for _, s in ipairs(list) do
        if not depthwise.check(p, t, s) then return true end
    end
    return false
end

function depthwise.candidates(p, t)
    local list, nhwc = {}, p.layout == "nhwc"
    local mm = p.bytes == 4 and FMA or nhwc and p.kg == 1 and p.r * ceildiv(p.s, 2) <= 32 and DIAGONAL or BAND
    local depths   -- stages
    -- Tiles of `copy`, with rt x ct outputs of a thread or warp, and a multiple of unit_p rows.
    local function add(copy, vec, rt, ct, unit_p, tp, tq)
        for _, tc in ipairs(channels(p, mm, copy, tp * tq)) do
            local items = mm == BAND and tc * p.kg * ceildiv(tp, 16) * (tq // ct) or
                          mm == DIAGONAL and tp // unit_p * (tq // ct) or
                          ceildiv(tc * p.kg * (tp // rt) * (tq // ct), 32)
            local warps = mm == DIAGONAL and tc // 8 * balanced(items, max(1, 64 // tc)) or
                          balanced(items, copy == RUNS and 4 or 8)
            for _, stages in ipairs(depths) do
                list[#list + 1] = { mm = mm, copy = copy, tc = tc, ni = 1, tp = tp, tq = tq, rt = rt, ct = ct, warps = warps,
                                    vec = vec, stages = stages, wide = p.wide and 1 or 0 }
            end
        end
    end
    for _, way in ipairs(copies(p, t)) do
        local copy, vec = mm == BAND and nhwc and ASYNC or way[1], way[2]
        local single = nhwc and (mm == BAND or mm == FMA and p.r * p.s <= MOST_TAPS)
        depths = single and { 1 } or (copy == RUNS or copy == ASYNC and vec < 16) and { 2 } or { 2, 1 }
        local widest = copy >= PLANES and math.huge or mm == DIAGONAL and 32 or nhwc and 64 or copy == TENSOR and 128 or 512
        for _, output in ipairs(outputs(p, mm)) do
            local rt, ct = output[1], output[2]
            local unit_p = mm == DIAGONAL and rt * 16 // ct or mm == BAND and 1 or rt
            local columns = extents(p.q, ct, widest, copy >= PLANES and {} or nhwc and { 8, 14, 16, 32 } or { 64, 128 })
            local rows = copy == PLANES and { roundup(p.p, unit_p) } or
                         extents(p.p, unit_p, mm == DIAGONAL and 24 or 64, nhwc and { 4, 8, 14, 16 } or { 8, 16, 28, 32 })
            for _, tq in ipairs(columns) do
                for _, tp in ipairs(rows) do add(copy, vec, rt, ct, unit_p, tp, tq) end
            end
        end
        if any_possible(p, t, list) then break end   -- the next way serves where this one cannot
    end
    return list
end

-- What a tile costs: instructions of all warps, shared-memory wavefronts, and instructions of the busiest warp.
local works <const> = {}   -- by mm

works[FMA] = function(p, s, d, nhwc)
    local outputs = s.rt * s.ct
    local windows = d.unrolled and min(s.rt * p.r, (s.rt - 1) * p.stride_h + (p.r - 1) * p.dil_h + 1) or s.rt * p.r
    local reads = windows * (nhwc and d.window or d.window // 4) + p.r * (nhwc and p.s or d.tap_pitch // 4)
    local issue = outputs * p.r * p.s + reads + outputs * (nhwc and 4 or s.ct == 4 and p.q % 4 == 0 and 2 or 8) + 70
    local waves = reads * 4 * min(2, max(1, s.ct * p.stride_w // 4))
    if nhwc then
        -- the pixels that a warp reads at a time lie `apart` words from each other
        local pixels, apart, turns = ceildiv(32, s.tc), s.ct * p.stride_w * s.tc % 32, 1
        while turns < pixels and turns * apart % 32 ~= 0 do turns = turns + 1 end
        waves = reads * ceildiv(pixels, turns)
    end
    local warps = ceildiv(d.items, 32)
    return warps * issue, warps * waves, ceildiv(d.items, d.threads) * issue
end

works[BAND] = function(p, s, d, nhwc)
    local rows = p.r * (2 * d.steps + ceildiv(d.blocks, 2) + s.ct // 8 * d.steps + 4)
    local width = p.q % 8 == 0 and 8 or p.q % 4 == 0 and 4 or p.q % 2 == 0 and 2 or 1
    local issue = rows + 16 * s.ct // 8 + 80
    if not nhwc then issue = issue + 16 * s.ct // width // 32 * 10 + 20 end
    local waves = p.r * (2 * d.steps + 2 * d.blocks * min(2, p.stride_h)) + 2 * s.ct
    local out = 0
    if nhwc then out = s.ni * s.tp * s.tq // 2 * (d.filters // d.k_elements) // 32 * (40 + 3 * d.k_elements) end
    return d.items * issue + out, d.items * waves + out // 3, ceildiv(d.items, s.warps) * issue + out // s.warps
end

works[DIAGONAL] = function(p, s, d)
    local rows = min(s.rt * p.r, (s.rt - 1) * p.stride_h + (p.r - 1) * p.dil_h + 1)
    local taps = p.r * d.tap_pairs
    local address = d.alike and 1.3 or 5   -- instructions for the operand of a product
    local issue = rows * d.tap_pairs * address + s.rt * taps + 6 * s.rt + 50
    local waves = rows * d.tap_pairs * 4 * min(2, p.stride_w) + 2 * s.rt
    local out = 0
    if s.copy ~= TENSOR then out = s.ni * s.tp * s.tq * s.tc // d.k_elements // 32 * 20 end
    return d.items * issue + out, d.items * waves + out // 3, ceildiv(d.items, s.warps) * issue + out // s.warps
end

-- Instructions of all warps for the loads of a tile.
local function loading(p, s, d, nhwc)
    if s.copy == TENSOR then return 40 end
    if s.copy >= LINES then return 60 + ceildiv(s.ni * s.tc * d.rows, 32) * 40 end
    if s.copy == PLANES then return s.ni * s.tc * d.most_h * max(8, ceildiv(d.most_w, d.elements)) // 32 * 14 end
    local loads = nhwc and s.ni * d.rows * d.cols * s.tc // d.elements or s.ni * s.tc * d.rows * ceildiv(d.cols, d.elements)
    if s.mm == BAND and nhwc then return loads // 32 * (25 + d.elements) end
    return loads // 32 * 26
end

-- Bytes that memory and the L2 cache move, which is in sectors.
local function bytes_moved(p, s, d, nhwc, tiles)
    local output = p.n * p.k * p.p * p.q * p.bytes
    local moved = p.n * p.c * p.h * p.w * p.bytes + output
    if nhwc then
        local waste = max(1, SECTOR / (s.tc * p.bytes))
        return moved * (s.tc * p.bytes < BURST and s.tc < p.c and 1.5 or 1),
               (tiles * s.ni * d.rows * d.needed * s.tc * p.bytes + output) * waste
    end
    local row = roundup(d.needed * p.bytes, SECTOR) + (s.copy >= PLANES and 0 or SECTOR)
    return moved, tiles * s.ni * s.tc * d.rows * row + output
end

-- Fitted to 2,500 measurements on an H200, each way to multiply by itself.
local LAUNCH_US <const> = 2.5         -- as cost.lua's; the measured kernels took twice that, which is the same for all schedules
local COMPARABLE <const> = 0.8        -- as optimistic as cost.lua is, for groups of few channels
-- start: clocks before a block's first tile is there, and after its last; latency: that a copy takes, where it does not run ahead;
-- barriers: that those around a tile take; issue, alone: clocks of a multiprocessor, and of a warp alone, for an instruction;
-- wave: of a wavefront; loss: the part of the shorter of work and memory time that adds to the longer; memory, l2: of the
-- bandwidths, where nothing else takes time
local IN_ORDER <const> = 0.85         -- of the time of floats, where blocks move through memory in its order
local MODEL <const> = {
    [FMA] = { start = 2320, latency = 640, barriers = 580, issue = 0.225, alone = 2.96, wave = 0.405,
              loss = 0.68, memory = 0.84, l2 = 1.71 },
    [BAND] = { start = 1990, latency = 950, barriers = 720, issue = 0.236, alone = 4.18, wave = 0.6,
               loss = 0.91, memory = 1.1, l2 = 1.47 },
    [DIAGONAL] = { start = 2610, latency = 1110, barriers = 450, issue = 0.336, alone = 3.22, wave = 1.02,
                   loss = 0.68, memory = 0.95, l2 = 1.46 },
}

-- How many times as long the L2 cache takes for rows, or for runs of channels, that are not long and aligned.
local function scattering(p, s, nhwc)
    local run = s.tc * p.bytes
    return s.copy >= LINES and 1.2 or not nhwc and 1.6 or run > 128 and 1 or run > 64 and 1.15 or run > 32 and 1.24 or 1.66
end

function depthwise.time(p, t, s)
    local d = shape(p, s, t)
    local nhwc = p.layout == "nhwc"
    local tiles = ceildiv(p.n, s.ni) * ceildiv(p.p, s.tp) * ceildiv(p.q, s.tq) * d.tiles_c
    local issue, waves, longest = works[s.mm](p, s, d, nhwc)
    local m, loads = MODEL[s.mm], loading(p, s, d, nhwc)
    local together = min(d.resident, ceildiv(tiles, t.sms))
    -- all resident blocks' instructions, or a block's own steps
    local waiting = m.barriers + (s.stages == 1 and m.latency or 0)
    local alone = (longest + loads // s.warps) * max(m.alone, s.warps * m.issue) + waiting
    local round = max(together * (issue + loads) * m.issue, together * waves * m.wave, alone)
    local compute = (ceildiv(tiles, t.sms * together) * round + m.start) / t.clock
    local memory, cached = bytes_moved(p, s, d, nhwc, tiles)
    local traffic = max(memory / (m.memory * t.bandwidth), cached * scattering(p, s, nhwc) / (m.l2 * t.l2_bandwidth))
    local gain = s.mm == FMA and s.copy == RUNS and IN_ORDER or 1
    return COMPARABLE * gain * (LAUNCH_US + 1e6 * (max(compute, traffic) + m.loss * min(compute, traffic)))
end

local COPIES <const> = { [ASYNC] = "", [TENSOR] = " by tensor copies", [PLANES] = " by bulk copies of planes",
                           [LINES] = " by bulk copies of rows", [RUNS] = " by bulk copies of rows, as the outputs leave it" }
local WAYS <const> = { [FMA] = "FMAs", [BAND] = "banded matrices", [DIAGONAL] = "diagonal matrices" }

function depthwise.explain(p, s)
    local tile = string.format("%d channels x %d images x %d rows x %d columns", s.tc, s.ni, s.tp, s.tq)
    return string.format("%s; tiles of %s, %d in shared memory%s; %dx%d outputs a %s, %d warps", WAYS[s.mm], tile, s.stages,
                         COPIES[s.copy], s.rt, s.ct, s.mm == FMA and "thread" or "warp", s.warps)
end

-- How tensor copies see x, or y: `box` as for channels, columns, rows and images.
local function map_of(p, s, tensor, channels, rows, columns, box)
    local function bytes(...) return table.concat({ tostring(p.bytes), ... }, " * ") end
    local arg = { kind = "tensor_map", tensor = tensor, element = p.math == "tf32" and "f32" or p.math }
    local c = tostring(channels)
    if p.layout == "nchw" then
        arg.dims, arg.box = { columns, rows, c, "N" }, { box[2], box[3], box[1], box[4] }
        arg.strides = { bytes(columns), bytes(rows, columns), bytes(c, rows, columns) }
    else
        arg.dims, arg.box = { c, columns, rows, "N" }, box
        arg.strides = { bytes(c), bytes(c, columns), bytes(c, rows, columns) }
        if s.mm == DIAGONAL and s.tc > 8 then arg.swizzle = s.tc * p.bytes end
    end
    return arg
end

function depthwise.launch(p, t, s)
    local d = shape(p, s, t)
    local call <const> = launch.arg
    local tiles_n = string.format("ceildiv(N, %d)", s.ni)
    local tiles_p, tiles_q = string.format("ceildiv(P, %d)", s.tp), string.format("ceildiv(Q, %d)", s.tq)
    local tiles = string.format("%s * %s * %s * %d", tiles_n, tiles_p, tiles_q, d.tiles_c)
    local blocks = t.sms * d.resident
    if p.layout == "nhwc" and blocks > d.tiles_c then blocks = blocks // d.tiles_c * d.tiles_c end   -- each keeps its channels
    local requires = launch.requires(p, d.rows, d.pitch, s.wide == 1)
    if p.layout == "nchw" and d.elements > 1 then
        requires[#requires + 1] = { expr = string.format("W %% %d == 0", d.elements),
                                    why = string.format("rows must be multiples of %d bytes", s.vec) }
    end
    if s.copy == PLANES then
        requires[#requires + 1] = { expr = string.format("P <= %d && Q <= %d", s.tp, s.tq), why = "a tile must hold whole planes" }
        requires[#requires + 1] = {
            expr = string.format("%d * H * W %% 16 == 0 && %d * P * Q %% 16 == 0", s.tc * p.bytes, d.filters * p.bytes),
            why = "the planes of a tile must be multiples of 16 bytes",
        }
    end
    if s.copy >= LINES then
        requires[#requires + 1] = { expr = string.format("Q <= %d && W <= %d", s.tq, d.pitch - d.shift - p.pad_left),
                                    why = "a tile must hold whole rows" }
    end
    local input = call("input")
    if s.copy == TENSOR then
        input = map_of(p, s, "input", p.c, "H", "W", { s.tc, d.planes and d.pitch or d.cols, d.rows, s.ni })
    end
    local args = launch.args(p, { input, call("weights") }, { "N", "H", "W", "P", "Q", tiles_n, tiles_p, tiles_q, tiles })
    if s.mm == DIAGONAL and s.copy == TENSOR then
        for i, arg in ipairs(args) do
            if arg.kind == "output" then args[i] = map_of(p, s, "output", p.k, "P", "Q", { s.tc, s.tq, s.tp, s.ni }) end
        end
    end
    return {
        template = "conv2d_depthwise.cu.in", env = { cuda = cuda, p = p, s = s, d = d }, align = 16, requires = requires,
        workspace = "0",
        launches = { {
            suffix = "", block = { d.threads, 1, 1 }, smem = tostring(d.smem),
            grid = { string.format("min(%d, %s)", blocks, tiles), "1", "1" },
            args = args,
        } },
    }
end

return depthwise
