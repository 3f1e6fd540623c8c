-- wgmma.lua: dense convolution on Hopper's tensor cores, with one halo patch in shared memory for all filter taps.
--
-- An operand of wgmma in shared memory may begin at any multiple of its row: the hardware swizzles absolute addresses. So the
-- input patch of a tile of outputs, halo included, is laid out with one pixel a row of 128 (or 64) bytes, and each of the R*S
-- taps multiplies the same patch at another start address: the input is read once, and not R*S times.
--
-- Weights are A (64 filters a warpgroup), pixels are B. A product has N = 8*tp pixels, in groups of 8 whose rows of shared memory
-- are next to one another; the groups may be any number of rows apart, the same for all. So there are three kinds of tiles:
-- - Strips: 8 columns x tp rows, groups one patch line apart. A patch is a box of x, which the tensor copy engine fetches, or, if
--   box=0 and in strict f32, whose parts must be split, three warps.
-- - Lines (lw > 0): 8*tp pixels that follow one another in a line, and in the next line, and in the next image. A line is as wide
--   as the image and its padding, which one line's end and the next one's beginning share, so little is computed in vain where
--   images are no multiple of 8 wide. What follows a line's last column, and an image's last row, is computed and dropped.
--   With dilation, every dil_h-th row makes an image of its own, which needs no more rows around it than an undilated filter.
-- - Rectangles (lw > 0, box > 0), in NCHW: as many whole lines of a patch of lw columns as products have pixels for. A filter's
--   outputs of a line are next to one another in memory. If the line is a multiple of 16 bytes, the tensor copy engine stores
--   boxes of all lines, and demands the same of y's rows; else threads store the units of 16 bytes that a line has, and its ends.
--
-- NCHW is transposed by a launch before, into the workspace; or (box > 1) the tensor copy engine brings boxes of planes as they
-- are, 32 bytes of channels at a time, and three warps turn them while the others multiply. box=3 takes whole lines, so that
-- only planes must be multiples of 16 bytes, and not rows.
--
-- A launch before packs the weights in the order in which they are consumed, unless channels are innermost: then a filter's
-- channels of a tap are a row already, and the tensor copy engine fetches them from where they lie. A block stays on its
-- multiprocessor and takes tile after tile: one thread fetches weights into a ring, others the next patch, two warpgroups
-- multiply. Where tiles are few, the blocks of a cluster share the channels of one, and add up their sums in the same order always.
-- Boxes of y are stored by the engine, too, where channels are innermost.

local cost = require "cost"
local cuda = require "cuda"
local launch = require "launch"
local strict = require "strict"

local ceildiv <const>, roundup <const> = cuda.ceildiv, cuda.roundup
local min <const>, max <const>, ipairs <const> = math.min, math.max, ipairs

local wgmma = {}

wgmma.parameters = {
    { "wm", 1, 2 },      -- warpgroups along the filters, of two; the others are along the pixels
    { "tp", 1, 32 },     -- groups of 8 pixels of a product: the rows of a strip
    { "sq", 1, 32 },     -- products of a block, of each image: strips of 8 columns side by side
    { "ni", 1, 32 },     -- images of a block, each with strips
    { "cb", 32, 128 },   -- bytes of a row of channels: 64 or 128
    { "lw", 0, 256 },    -- most columns of a line, what the filter needs around them included; 0: strips
    { "split", 1, 8 },   -- blocks that share the channels of a tile
    { "box", 0, 3 },     -- patches are boxes that the tensor copy engine fetches: 1, of pixels; 2, of planes, which three warps turn;
                         -- 3, of whole lines of planes
}

-- Three TF32 products leave up to 3 * 2^-22 of each product out (the product of the rests, and what the rests lose themselves).
-- An FP32 FMA loop over this many products may err as much; over fewer it is more exact, and strict f32 promises no less.
local SHORTEST_EXACT_SUM <const> = 32
local CONSUMERS <const> = 2
local MOST_ACCUMULATORS <const> = { light = 160, heavy = 144 }   -- registers of a consumer thread, by what is left to do at the end
local MOST_STAGED <const> = 16 << 10    -- bytes of a warpgroup's outputs that are stored at a time, as boxes
local MOST_BOX <const> = 256            -- elements of a box of a tensor map, in each direction
local MOST_BOXES <const> = 4            -- of planes, under way or there
local LEAST_COLUMNS <const>, MOST_COLUMNS <const> = 12, 66   -- of a rectangle; the 8 pixels of a product's group lie in two lines at most
local MOST_HELD <const> = 22            -- taps whose weights stay in shared memory: each has two barriers
local MOST_TURNED <const> = 20          -- pixels of a thread, or pairs of 8 pixels x 8 channels
local TURNING_WARPS <const> = 3         -- that turn boxes of planes
local MOST_COUNTED <const> = 1 << 30    -- pixels that may be counted in 32 bits, with room behind

function wgmma.applies(p, t)
    if t.arch ~= "sm_90a" then return false, "wgmma is an instruction of sm_90a" end
    if p.math == "f32" and p.c * p.r * p.s < SHORTEST_EXACT_SUM then
        return false, string.format("a sum of %d products is more exact by FMA", p.c * p.r * p.s)
    end
    if p.groups ~= 1 then return false, "it multiplies all channels; groups would be mostly zeros" end
    return true
end

-- The phases of a stride that taps fall on, and for each tap its phase (counted from 0) and shift.
local function phases(taps, dilation, stride)
    local list, of, shift, index = {}, {}, {}, {}
    for tap = 0, taps - 1 do
        local phase = tap * dilation % stride
        if not index[phase] then
            list[#list + 1] = phase
            index[phase] = #list - 1
        end
        of[tap + 1], shift[tap + 1] = index[phase], tap * dilation // stride
    end
    return list, of, shift
end

local CHEAP <const> = { identity = true, relu = true, leaky_relu = true, clamp = true, hardswish = true } -- activations

-- Products and, in strict f32, their sums share these registers.
local function most_accumulators(p)
    local most = (p.residual or not CHEAP[p.activation]) and MOST_ACCUMULATORS.heavy or MOST_ACCUMULATORS.light
    return p.math == "f32" and most // 2 or most
end

-- Outputs go through shared memory: 16-bit ones as they are stored, if nothing is left to do then.
local function stage_outputs(p, s, d)
    local nhwc = p.layout == "nhwc"
    d.narrow = p.bytes == 2 and not p.residual and CHEAP[p.activation] and not d.split or false
    -- where lines are multiples of 16 bytes, boxes of planes are stored; else runs of columns
    local plain = not p.residual and CHEAP[p.activation] or false
    d.stores_planes = d.rectangle and d.tile_q * p.bytes % 16 == 0 and plain
    d.runs = d.rectangle and not d.stores_planes
    -- the tensor copy engine stores boxes, of 128 bytes of filters a pixel
    d.stores_boxes = nhwc and not d.linear and not d.split and plain and p.k * p.bytes % 16 == 0
    d.pairs = not nhwc and p.bytes == 2
    d.staged_size = d.narrow and p.bytes or 4
    d.staged = d.split and roundup(d.pixels, 32) or 128 // d.staged_size
    if d.stores_boxes then   -- a part of the pixels, of whole groups
        local parts = 1
        while d.pixels % (8 * parts) ~= 0 or d.pixels // parts * 64 * d.staged_size > MOST_STAGED do parts = parts + 1 end
        d.staged = d.pixels // parts
    end
    if d.stores_planes then d.staged = 1 end   -- lines
    if d.runs then d.staged = min(d.staged, d.pixels) end   -- of one strip
    d.width = d.pairs and 2 or 1
    if nhwc then
        local most = d.narrow and 8 or 4
        while d.width < most and p.k % (2 * d.width) == 0 do d.width = 2 * d.width end
    end
end

-- Bytes of shared memory that staged outputs take, apart from the operands, and all of them.
local function staging_bytes(p, s, d)
    if d.stores_planes then   -- of both warpgroups, or of each
        d.staged_lines = d.staged
        d.staged_bytes = d.staged * 64 * d.tile_q * p.bytes // (d.my_strips < d.strips and CONSUMERS or 1)
        return CONSUMERS * d.staged_bytes
    end
    if d.runs then
        local unit = 16 // p.bytes
        d.run_units = (min(s.lw, d.staged) + 2 * unit - 2) // unit
        d.whole_lines = d.staged == d.strips * d.pixels   -- else they may begin within a line
        d.run_count = d.whole_lines and ceildiv(d.staged, s.lw) or ceildiv(d.staged - 1, s.lw) + 1
        d.staged_row = (ceildiv(d.staged + unit - 1, unit) + 2 * (d.run_count - 1)) * unit * d.staged_size
        while d.staged_row % 128 ~= 8 * d.staged_size do d.staged_row = d.staged_row + 8 end   -- a warp's pairs lie in different banks
        d.staged_bytes = 64 * d.staged_row
        return CONSUMERS * (d.staged_bytes + 16 * d.run_count)
    end
    local pixels = CONSUMERS * (d.split and d.my_strips or 1) * d.staged
    d.staged_bytes = pixels * 64 * d.staged_size
    return (d.stores_boxes and 0 or pixels * 8) + (d.split and 0 or d.staged_bytes)
end

-- The least divisor of `size` above `part`, which is less.
local function next_part(size, part)
    repeat part = part + 1 until size % part == 0
    return part
end

-- Shares out shared memory: two patches rather than one, then four stages of weights at least, then, where that makes runs of
-- columns longer (each filter's are in another page of memory), more staged outputs, then more boxes ahead, then more weights.
local function share_memory(p, t, s, d)
    local tables = d.planar and 2 * (d.box_pixels + 8 + 16 // p.bytes) + 8 * MOST_BOXES or d.boxes and 0 or 4 * d.patch_rows
    local most = t.smem_block - 1024 - tables
    local patch, box = d.parts * d.patch_bytes, d.planar and d.box_room or 0
    d.boxes_ahead = 2
    d.patches = 2 * patch + 4 * d.stage_bytes + 2 * box + staging_bytes(p, s, d) <= most and 2 or 1
    local weights = 4 * d.stage_bytes
    -- few weights that all tiles share stay where they are
    local all = d.chunks * p.r * p.s * d.stage_bytes
    d.hold = d.turns and d.tiles_k * s.wm == 1 and p.r * p.s <= MOST_HELD and 2 * patch + all + 2 * box + staging_bytes(p, s, d) <= most
    if d.hold then weights = all end
    local fixed = d.patches * patch + weights + 2 * box
    while p.layout == "nchw" and not d.split and d.staged < (d.stores_planes and d.tile_p or d.pixels) do
        local staged = d.staged
        d.staged = d.stores_planes and next_part(d.tile_p, staged) or d.runs and min(2 * staged, d.pixels) or 2 * staged
        if fixed + staging_bytes(p, s, d) > most then
            d.staged = staged
            break
        end
    end
    local staging = staging_bytes(p, s, d)
    while d.planar and d.boxes_ahead < MOST_BOXES and fixed + staging + (d.boxes_ahead - 1) * box <= most do
        d.boxes_ahead = d.boxes_ahead + 1
    end
    local operands = d.patches * patch + d.boxes_ahead * box
    d.weight_stages = d.hold and p.r * p.s or min(8, (most - staging - operands) // d.stage_bytes)
    d.smem = operands + d.weight_stages * d.stage_bytes + staging + tables + 16 * (d.patches + d.weight_stages)
end

-- A box of planes: the columns and lines of the patch, and up to 15 bytes of columns before. An odd number of 16-byte pieces a
-- channel keeps the channels of a pixel in different banks.
local function place_box(p, d)
    local unit = 16 // p.bytes
    local function reach(size, phases_of, stride) return (size - 1) * stride + max(table.unpack(phases_of)) + 1 end
    local function odd(size) return p.bytes == 2 and size | 1 or size end
    local function inverse(list, stride)
        local of = {}
        for phase = 1, stride do of[phase] = -1 end
        for i, phase in ipairs(list) do of[phase + 1] = i - 1 end
        return of
    end
    d.box_h = reach(d.patch_h, d.phases_h, p.stride_h)
    if d.flat then   -- the widest image whose outputs fit into a line
        d.most_w = d.tile_q * p.stride_w + (p.s - 1) * p.dil_w - p.pad_left - p.pad_right
        d.box_w, d.box_h = odd(ceildiv(d.box_h * d.most_w + unit - 1, unit)) * unit, 1
    else
        d.box_w = odd(ceildiv(reach(d.patch_w, d.phases_w, p.stride_w) + unit - 1, unit)) * unit
        d.box_h = odd(d.box_h)
    end
    d.box_pixels = d.box_w * d.box_h
    d.box_room = roundup(d.box_pixels * 32, 128)
    d.plane_h, d.plane_w = inverse(d.phases_h, p.stride_h), inverse(d.phases_w, p.stride_w)
end

-- The rows of shared memory that the patch takes, and where in it each tap's window begins.
local function place_patch(p, s, d)
    local of_h, shift_h, of_w, shift_w
    -- rows of a dilated filter are next to one another if every dil_h-th row makes an image of its own
    d.fold = d.linear and p.stride_h == 1 and p.dil_h or 1
    d.phases_h, of_h, shift_h = phases(p.r, p.dil_h // d.fold, p.stride_h)
    d.phases_w, of_w, shift_w = phases(p.s, p.dil_w, p.stride_w)
    d.shift_h, d.shift_w = shift_h[p.r], shift_w[p.s]
    if d.linear then
        d.plane_rows = roundup(d.strips * d.pixels + d.shift_h * s.lw + d.shift_w, 8)
    elseif d.rectangle then
        local counted = d.strips * d.pixels
        d.tile_q = (s.lw - d.shift_w) // 2 * 2   -- pairs of outputs stay together
        d.tile_p = (counted - d.tile_q) // s.lw + 1
        d.patch_h, d.patch_w = d.tile_p + d.shift_h, s.lw
        d.plane_rows = roundup(max(d.patch_h * s.lw, counted + d.shift_h * s.lw + d.shift_w), 8)
    else
        d.tile_p, d.tile_q = s.tp, 8 * s.sq
        d.patch_h, d.patch_w = s.tp + d.shift_h, 8 * s.sq + d.shift_w
        d.plane_rows = d.patch_h * d.patch_w
        if d.boxes then d.plane_rows = roundup(d.plane_rows, 8) end   -- a box begins where the swizzle's pattern does
    end
    d.row_of, d.line_of, d.column_of = {}, {}, {}
    for r = 1, p.r do
        d.row_of[r] = of_h[r] * #d.phases_w * d.plane_rows + (d.linear and 0 or shift_h[r] * d.patch_w)
        d.line_of[r] = shift_h[r]
    end
    for c = 1, p.s do d.column_of[c] = of_w[c] * d.plane_rows + shift_w[c] end
    d.patch_rows = roundup((d.linear and 1 or s.ni) * #d.phases_h * #d.phases_w * d.plane_rows, 4)   -- which a thread fills together
    if d.planar then place_box(p, d) end
    d.patch_bytes = roundup((d.patch_rows + (d.planar and p.bytes == 2 and TURNING_WARPS * 8 or 0)) * s.cb, 1024)
end

local function derive(p, s, t)
    local d = { tile_k = 64 * s.wm, channels = s.cb // p.bytes, pixels = 8 * s.tp, linear = s.lw > 0 and s.box == 0, rectangle = s.lw > 0 and s.box > 0,
                split = s.split > 1, boxes = s.box == 1, planar = s.box >= 2, flat = s.box == 3, row_bytes = s.cb }
    d.type = p.math == "f32" and "tf32" or p.math
    d.parts = p.math == "f32" and 2 or 1
    d.steps = s.cb // 32
    d.tiles_k = ceildiv(p.k, d.tile_k)
    d.chunks = ceildiv(p.c, d.channels)
    -- with one chunk the two warpgroups take turns, with more they share each tile
    d.turns = d.chunks == 1 and p.math ~= "f32"
    d.strips = s.sq * s.ni
    d.my_strips = d.turns and d.strips or d.strips // (CONSUMERS // s.wm)
    d.accumulators = d.my_strips * d.pixels // 2
    d.stage_k = d.turns and 64 or d.tile_k
    place_patch(p, s, d)
    stage_outputs(p, s, d)
    d.stage_bytes = d.parts * d.stage_k * s.cb
    share_memory(p, t, s, d)
    d.drain = d.patches == 1 and d.chunks > 1
    d.x_channels = roundup(p.c * p.bytes, 16) // p.bytes
    d.transpose = not d.planar and (p.layout == "nchw" or d.x_channels ~= p.c)
    -- of one chunk in rows of 64 bytes, products are faster than copies of such rows from where they lie again and again
    local slow = d.turns and s.cb == 64 and not d.hold
    d.packs = p.r * p.s > 1 and (p.weights_layout == "kcrs" or slow) or d.x_channels ~= p.c or d.parts > 1
    -- the three warpgroups begin with 168 registers a thread, and share those
    local many = d.accumulators * d.parts > 144
    d.producer_registers, d.consumer_registers = many and 56 or 88, many and 224 or 208
    if d.boxes then d.producer_registers, d.consumer_registers = 40, 232 end   -- who fetches them needs few
    if d.planar then d.producer_registers, d.consumer_registers = 72, 216 end
    return d
end

local shape <const> = launch.remember(derive)

-- Arithmetic on numbers, and on expressions that the runtime evaluates.
local numbers <const> = {
    ceildiv = ceildiv, min = min, max = max, plus = function(a, b) return a + b end, times = function(a, b) return a * b end,
    above = function(a, b) return a > b and 1 or 0 end,
}
local texts <const> = {}
for name, form in strict.sorted { ceildiv = "ceildiv(%s, %s)", min = "min(%s, %s)", max = "max(%s, %s)", plus = "(%s + %s)",
                          times = "%s * %s", above = "(%s > %s)" } do
    texts[name] = function(a, b) return string.format(form, a, b) end
end

-- How pixels are counted along lines: the columns of a slab, the pitch and lines that hold a slab and what the filter needs
-- around it, and all pixels up to the last row's end. Where what follows is zero in both places, the end of a line is also the
-- beginning of the next one, and the end of an image that of the next one. `o`: numbers or texts; n to q: the sizes as such.
local function count_lines(p, s, d, o, n, h, w, out_h, out_w)
    local function shared(size, out, before, stride, most_phase, shift)
        local beyond = shift - 1 - (before - most_phase - 1) // stride
        return o.max(o.max(out, o.ceildiv(o.plus(size, before), stride)), o.plus(out, beyond))
    end
    local l = { slabs = o.ceildiv(out_w, s.lw - d.shift_w) }
    l.columns = o.ceildiv(out_w, l.slabs)
    local one_slab = shared(w, out_w, p.pad_left, p.stride_w, max(table.unpack(d.phases_w)), d.shift_w)
    l.pitch = o.min(o.plus(l.columns, d.shift_w), o.max(o.times(o.above(l.slabs, 1), launch.MOST_PIXELS), one_slab))
    local rows = o.ceildiv(out_h, d.fold)
    local most_phase = d.fold > 1 and d.fold - 1 or max(table.unpack(d.phases_h))
    l.lines = o.min(o.plus(rows, d.shift_h), shared(h, rows, p.pad_top, p.stride_h * d.fold, most_phase, d.shift_h))
    l.pixels = o.times(o.plus(o.times(o.plus(o.times(o.times(n, d.fold), l.slabs), -1), l.lines), rows), l.pitch)
    return l
end

function wgmma.check(p, t, s)
    local ok, reason = wgmma.applies(p, t)
    if not ok then return reason end
    if s.cb ~= 128 and (s.cb ~= 64 or p.math == "f32") then return string.format("cb is %d; 64 or 128, 128 for f32", s.cb) end
    local d = shape(p, s, t)
    if not d.turns and d.strips * s.wm % CONSUMERS ~= 0 then
        return string.format("%d strips for %d warpgroups", d.strips, CONSUMERS // s.wm)
    end
    if d.accumulators > most_accumulators(p) then
        return string.format("%d accumulators of a thread; at most %d", d.accumulators, most_accumulators(p))
    end
    if d.weight_stages < 2 then return string.format("a patch of %d bytes leaves no room for weights", d.patch_bytes) end
    if s.split > d.chunks then return string.format("%d rounds through the channels for %d blocks", d.chunks, s.split) end
    if d.split and d.staged_bytes > d.patches * d.parts * d.patch_bytes + d.weight_stages * d.stage_bytes then
        return string.format("%d bytes of sums do not fit where the operands were", d.staged_bytes)
    end
    if d.pixels > 256 then return string.format("a product of %d pixels; at most 256", d.pixels) end
    if d.boxes and d.parts > 1 then return "boxes of pixels are of one part" end
    if d.planar then
        if p.layout ~= "nchw" then return "boxes of planes are NCHW's" end
        if s.ni > 1 or d.split then return "boxes of planes are of one image, and of all channels" end
        if d.flat and not (d.rectangle and d.most_w > 0) then return "whole lines are of rectangles" end
        if d.box_pixels > MOST_TURNED * 96 // (p.bytes == 2 and 2 or 1) then
            return string.format("a box of %d pixels of planes: more than three warps turn", d.box_pixels)
        end
        if max(d.flat and d.box_w * p.bytes // 4 or d.box_w, d.box_h) > MOST_BOX then
            return string.format("a box of %d x %d pixels of planes; at most %d in each direction", d.box_h, d.box_w, MOST_BOX)
        end
    end
    if d.boxes and max(d.patch_h * p.stride_h, d.patch_w * p.stride_w) > MOST_BOX then
        return string.format("a box of %d x %d pixels; at most %d in each direction", d.patch_h * p.stride_h, d.patch_w * p.stride_w, MOST_BOX)
    end
    if d.rectangle and p.layout ~= "nchw" then return "rectangles are NCHW's" end
    if s.lw > 0 and (s.ni > 1 or s.lw <= d.shift_w) then return "lines shorter than the filter, or several images" end
    if d.rectangle and s.lw < LEAST_COLUMNS then return string.format("rectangles of %d columns; at least %d", s.lw, LEAST_COLUMNS) end
    if d.rectangle and (s.lw <= d.shift_w + 1 or d.tile_p < 1) then return "a tile of less than a line" end
    if d.rectangle and d.split then return "rectangles whose channels are shared" end
    if s.lw == 0 and d.patch_w * s.cb > 0x3fff * 16 then return "a patch line is longer than a descriptor's stride" end
end

-- Sizes of parts that `size` is cut into, each at most `most`: as few parts as can be, and some more.
local function parts_of(size, most)
    local list, known = {}, {}
    local fewest = ceildiv(size, most)
    for _, parts in ipairs { fewest, fewest + 1, fewest + 2, 2 * fewest, 4 * fewest } do
        local part = ceildiv(size, parts)
        if not known[part] and (part >= 4 or parts == fewest) then
            known[part] = true
            list[#list + 1] = part
        end
    end
    return list
end

-- What a schedule can be made of: filters, bytes of channels, and products of a warpgroup; `products`: of a block. The last
-- argument: products are large, patches are not.
local function each_base(p, visit)
    local exact, bytes = p.math == "f32", p.c * p.bytes
    local most = most_accumulators(p)
    local narrow = bytes > 64 and not exact and p.stride_h * p.stride_w * p.dil_h * p.dil_w > 1   -- patches are large
    for _, cb in ipairs(bytes <= 64 and not exact and { 64 } or narrow and { 128, 64 } or { 128 }) do
        for wm = p.k > 64 and 2 or 1, 1, -1 do
            for mine = 1, 2 do
                local products = (bytes <= cb and not exact) and mine or 2 * mine // wm
                visit({ wm = wm, cb = cb }, products, most // (4 * mine), mine == 1 and (cb == 64 or not narrow))
            end
        end
    end
end

local function parameters(base, tp, sq, ni, lw, split, box)
    return { wm = base.wm, tp = tp, sq = sq, ni = ni, cb = base.cb, lw = lw, split = split, box = box or 0 }
end

-- Pixels counted along lines: so many of a product that the tiles fill the multiprocessors once, twice, three times.
local function add_lines(list, p, t, base, products, most_tp)
    if p.h * p.w * p.n > MOST_COUNTED then return end
    local d = shape(p, parameters(base, 8, products, 1, 8, 1), t)   -- for what does not depend on tp and lw
    local widest = p.q <= 112 and p.q or p.layout == "nchw" and 112   -- of wide images, to store longer runs of columns
    local lw = widest and roundup(widest + d.shift_w, 8) or 0
    if lw == 0 or lw > 256 then return end
    local pixels = count_lines(p, { lw = lw }, d, numbers, p.n, p.h, p.w, p.p, p.q).pixels
    local known = {}
    for _, blocks in ipairs { t.sms // 4, t.sms // 2, t.sms, 2 * t.sms, 3 * t.sms } do   -- few, if others are to share them
        local tp = ceildiv(pixels, max(1, blocks // d.tiles_k) * products * 8)
        if blocks >= t.sms then tp = min(tp, most_tp, 32) end
        if tp >= 4 and tp <= min(most_tp, 32) and not known[tp] then
            known[tp] = true
            list[#list + 1] = parameters(base, tp, products, 1, lw, 1)
        end
    end
end

-- Strips of columns, of one image or, if it has few, of several.
local function add_strips(list, p, base, products, most_tp)
    local across = ceildiv(p.q, 8)
    for _, tp in ipairs(parts_of(p.p, min(most_tp, 32))) do
        local sq = min(products, across)
        if products % sq == 0 and (sq == products or tp >= p.p and products // sq < 2 * p.n) then
            list[#list + 1] = parameters(base, tp, sq, products // sq, 0, 1, p.math == "f32" and 0 or 1)
        end
    end
end

-- Rectangles of lines as long as the image, or as a part of it: in NCHW they are stored in longer pieces than strips.
local function add_rectangles(list, p, t, base, products, most_tp)
    if p.layout ~= "nchw" then return end
    local unit <const> = 16 // p.bytes
    local d = shape(p, parameters(base, 8, products, 1, 0, 1), t)   -- for what does not depend on tp and lw
    local boxes = p.q % unit == 0
    local columns = roundup(ceildiv(p.q, ceildiv(p.q, MOST_COLUMNS)), boxes and unit or 2)
    if not boxes and columns % unit == 0 then columns = columns + 2 end   -- else boxes would be stored
    local lw = roundup(columns + d.shift_w, 2)
    local most = (8 * products * min(most_tp, 32) - columns) // lw + 1
    if most < 1 or lw > 256 then return end
    for i, lines in ipairs(parts_of(p.p, most)) do
        if i > 2 then break end
        local tp = ceildiv((lines - 1) * lw + columns, 8 * products)
        local function add(box) list[#list + 1] = parameters(base, tp, products, 1, lw, 1, box) end
        if p.h * p.w % unit == 0 and columns >= p.q then add(3) end
        if p.w % unit == 0 then add(2) end
        if i == 1 and p.math ~= "f32" then add(1) end
    end
end

-- Blocks for all tiles, and the rounds in which the multiprocessors take them.
local function tiles_of(p, t, s, d)
    local tiles = d.tiles_k * s.split
    if d.linear then
        tiles = tiles * ceildiv(count_lines(p, s, d, numbers, p.n, p.h, p.w, p.p, p.q).pixels, d.strips * d.pixels)
    else
        tiles = tiles * ceildiv(p.n, s.ni) * ceildiv(p.p, d.tile_p) * ceildiv(p.q, d.tile_q)
    end
    return tiles, ceildiv(tiles, s.split > 1 and cost.filled(t, s.split) or t.sms)
end

function wgmma.candidates(p, t)
    local list = {}
    each_base(p, function(base, products, most_tp, large)
        add_lines(list, p, t, base, products, most_tp)
        add_strips(list, p, base, products, most_tp)
        if large then add_rectangles(list, p, t, base, products, most_tp) end
    end)
    -- with few tiles, several blocks share each
    for i = 1, #list do
        local s = list[i]
        local d = shape(p, s, t)
        local tiles = tiles_of(p, t, s, d)
        for _, split in ipairs { 8, 4, 2 } do   -- that many blocks fill groups of 16 multiprocessors
            if not d.turns and split <= d.chunks and tiles * split <= cost.filled(t, split) then
                list[#list + 1] = parameters(s, s.tp, s.sq, s.ni, s.lw, split, s.box)
                break
            end
        end
    end
    return list
end

-- FLOP a clock and multiprocessor that the inner loop reaches, and the part of the highest clock that it runs at.
local RATE <const> = { f16 = 3800, bf16 = 3800, tf32 = 1950, f32 = 730 }
local SUSTAINED <const> = 0.97
local RECTANGLE <const> = { f16 = 1.0, bf16 = 1.0, tf32 = 0.9, f32 = 0.82 } -- what rectangles take of the clocks that are counted
local FETCH <const> = 20        -- bytes a clock that a multiprocessor gets from the L2 cache, with all at it
local FEW_CHANNELS <const> = 16 -- so few leave too little to multiply between two patches
local UNPACKED_US <const> = -1.1   -- where no launch packs weights
local FEW_PAGES <const> = 48e6  -- bytes that stores may be spread over at a time before translating their addresses takes longer

-- Clocks that a block takes to store a tile.
local function store_clocks(p, d)
    local many_pages = p.p * p.q * p.bytes * d.tile_k > FEW_PAGES
    if d.stores_planes then return d.tile_k * d.strips * d.pixels * p.bytes / 24 + 700 * (d.tile_p // d.staged_lines) end
    if d.runs then return d.tile_k * d.tile_p * d.tile_q * (many_pages and 0.55 or 0.45) * (d.whole_lines and 1 or 1.6) + 1000 end
    if d.stores_boxes then return d.my_strips * (d.pixels // d.staged) * 700 + d.tile_k * d.strips * d.pixels * p.bytes / 64 end
    local clocks = d.tile_k * d.strips * d.pixels * p.bytes / (p.layout == "nchw" and 16 or 24) + 1500 * d.my_strips
    if p.layout == "nchw" and d.parts == 1 and many_pages then clocks = clocks * (d.linear and p.bytes == 2 and 2 or 5) end
    return d.linear and d.pairs and clocks * 2 or clocks   -- pairs of columns at odd places are stored one by one
end

function wgmma.time(p, t, s)
    local d = shape(p, s, t)
    local _, rounds = tiles_of(p, t, s, d)
    local chunks = ceildiv(d.chunks, s.split)
    -- the operands of each product come from shared memory, at 128 bytes a clock
    local products = s.wm * d.strips
    local operands = products * (64 + d.pixels) * s.cb * (2 * d.parts - 1) / 128
    local product = max(2 * products * 64 * d.pixels * d.channels / RATE[p.math], 1.1 * operands)
    local rounded = p.math == "tf32" and not d.transpose   -- by those who gather, in shared memory
    local gather = d.planar and (s.cb // 32) * (d.box_pixels * 2 * d.parts + 700) or d.boxes and d.patch_bytes / 32 + 1500 or
                   d.patch_rows * (s.cb / 16) * (d.parts == 2 and 1.6 or rounded and 2.0 or 0.5) + 2000
    -- with room for one patch, its weights come behind it; rows of 64 bytes come slower
    local fetch = (d.hold and 0 or p.r * p.s * d.parts * d.tile_k * s.cb) + (d.patches > 1 and d.patch_rows * s.cb or 0)
    if s.cb == 64 then fetch = 1.1 * fetch end
    if d.turns and d.my_strips > 1 then   -- all factors here are measured
        if p.layout == "nchw" then product = 1.2 * product elseif d.steps == 4 then product = 1.06 * product end
    end
    local round = max(p.r * p.s * (product * (d.linear and 1.05 or 1) + (d.turns and 110 or 50)), fetch / FETCH)
    if d.boxes then round = 0.92 * round end
    if p.stride_h * p.stride_w > 1 and not d.linear then round = 0.85 * round end
    if p.c <= FEW_CHANNELS then round = 1.5 * round end
    local stores = store_clocks(p, d)
    if d.turns then
        round = max(round, gather, stores)
    else
        round = d.patches == 2 and max(round, gather) or round + gather
    end
    local clocks = rounds * (chunks * round + (d.turns and 100 or stores)) + gather + stores + 2000
    if d.split then clocks = clocks + 1000 + d.staged_bytes / 32 end
    if d.rectangle then clocks = clocks * RECTANGLE[p.math] end
    local memory_share = p.r * p.s > 1 and 0.9 or 0.75   -- of its bandwidth
    local us = 1e6 * clocks / (SUSTAINED * t.clock)
    us = max(us, 1e6 * (p.n * p.c * p.h * p.w + p.n * p.k * p.p * p.q) * p.bytes / (memory_share * t.bandwidth)) + 3.0
    -- the launches before: they reach 95 % of the bandwidth of a copy
    local moved = d.packs and (1 + d.parts) * p.k * p.c * p.r * p.s * p.bytes or 0
    if d.transpose then
        us = us + 1.0
        moved = moved + 2 * p.n * p.c * p.h * p.w * p.bytes
    end
    return us + (d.packs and 0.5 or UNPACKED_US) + 1e6 * moved / (0.95 * t.bandwidth)
end

function wgmma.explain(p, s)
    if s.lw > 0 and s.box > 0 then
        return string.format("%d filters x %d pixels in lines of %d columns a block, %d bytes of channels a round", 64 * s.wm, 8 * s.tp * s.sq,
                             s.lw, s.cb)
    end
    if s.lw > 0 then
        return string.format("%d filters x %d pixels along lines of up to %d columns a block, %d bytes of channels a round", 64 * s.wm,
                             8 * s.tp * s.sq, s.lw, s.cb)
    end
    return string.format("%d filters x %d images x %d rows x %d columns a block, %d bytes of channels a round", 64 * s.wm, s.ni, s.tp,
                         8 * s.sq, s.cb)
end

-- The map of x as the kernel reads it, by whose boxes it fetches patches.
local function box_of(p, s, d)
    local pixel = d.x_channels * p.bytes
    return {
        kind = "tensor_map", tensor = d.transpose and "workspace" or "input", element = p.math, swizzle = s.cb,
        dims = { tostring(d.x_channels), "W", "H", "N" },
        strides = { tostring(pixel), string.format("W * %d", pixel), string.format("H * W * %d", pixel) },
        box = { d.channels, d.patch_w, d.patch_h, 1 }, element_strides = { 1, p.stride_w, p.stride_h, 1 },
    }
end

-- The map of x as it lies in NCHW: a box is a slice of channels of the patch. Whole lines are counted in units of 4 bytes.
local function planes_of(p, d)
    local plane, image = string.format("H * W * %d", p.bytes), string.format("%d * H * W * %d", p.c, p.bytes)
    local map = { kind = "tensor_map", tensor = "input", element = p.math, swizzle = 0 }
    if d.flat then
        map.element = p.bytes == 2 and "f32" or p.math
        map.dims, map.strides = { plane .. " / 4", tostring(p.c), "N" }, { plane, image }
        map.box = { d.box_w * p.bytes // 4, 32 // p.bytes, 1 }
    else
        map.dims, map.strides = { "W", "H", tostring(p.c), "N" }, { string.format("W * %d", p.bytes), plane, image }
        map.box = { d.box_w, d.box_h, 32 // p.bytes, 1 }
    end
    return map
end

-- The map of y, into which the kernel stores boxes.
local function outputs_of(p, d)
    local pixel, filters = p.k * p.bytes, 128 // p.bytes
    local map = { kind = "tensor_map", tensor = "output", element = p.math == "tf32" and "f32" or p.math, swizzle = 128 }
    map.dims = { tostring(p.k), "Q", "P", "N" }
    map.strides = { tostring(pixel), string.format("Q * %d", pixel), string.format("P * Q * %d", pixel) }
    map.box = { filters, 8, d.staged // 8, 1 }
    if d.stores_planes then
        local plane = "P * Q * " .. p.bytes
        map.swizzle, map.dims, map.box = 0, { "Q", tostring(p.k), "P", "N" }, { d.tile_q, 64, d.staged_lines, 1 }
        map.strides = { plane, "Q * " .. p.bytes, string.format("%d * %s", p.k, plane) }
    end
    return map
end

-- The map of the weights, by whose boxes the kernel fetches a tap of a tile's filters.
local function filters_of(p, s, d)
    local tap = p.c * p.bytes
    return {
        kind = "tensor_map", tensor = "weights", element = p.math, swizzle = s.cb,
        dims = { tostring(p.c), tostring(p.r * p.s), tostring(p.k) }, strides = { tostring(tap), tostring(p.r * p.s * tap) },
        box = { d.channels, 1, d.stage_k },
    }
end

-- The launch that packs the weights.
local function pack(p, t, s, d)
    -- one filter's weights of a chunk, which are no more than a patch: each tap has its own pixel there
    local run_bytes, runs = s.cb * p.r * p.s, d.tiles_k * d.tile_k * d.chunks
    -- few blocks: each one's latency is what counts; many: the bytes that they have under way, and what it costs to begin one
    local packed_k = runs >= 15 * t.sms and 4 * run_bytes <= 48 * 1024 and 4 or 1
    return {
        suffix = "_pack", grid = { tostring(runs // packed_k), "1", "1" }, block = { 128, 1, 1 },
        smem = p.weights_layout == "krsc" and "0" or tostring(packed_k * run_bytes),
        args = { launch.arg("weights"), launch.arg("packed", "0") }, packs = true,
    }, packed_k
end

function wgmma.launch(p, t, s)
    local d = shape(p, s, t)
    local call <const> = launch.arg
    local sizes, tiles = {}, nil
    local requires = launch.requires(p, p.dil_h * p.r * 2 + 64 * p.stride_h, p.dil_w * p.s * 2 + 512 * p.stride_w, true)
    requires[#requires + 1] = { expr = string.format("N * H * W <= %d", MOST_COUNTED), why = "at most 2^30 pixels of x are told apart" }
    if d.linear then
        local l = count_lines(p, s, d, texts, "N", "H", "W", "P", "Q")
        sizes = { l.pitch, l.lines, l.slabs, l.columns }
        tiles = string.format("ceildiv(%s, %d) * %d", l.pixels, d.strips * d.pixels, d.tiles_k)
        requires[#requires + 1] = { expr = string.format("%s <= %d", l.pixels, MOST_COUNTED), why = "at most 2^30 pixels are counted" }
    else
        sizes = { string.format("ceildiv(P, %d)", d.tile_p), string.format("ceildiv(Q, %d)", d.tile_q) }
        tiles = string.format("ceildiv(N, %d) * %s * %s * %d", s.ni, sizes[1], sizes[2], d.tiles_k)
    end
    local x = d.transpose and call("workspace", "0") or call("input")
    if d.boxes then x = box_of(p, s, d) end
    if d.planar then
        x = planes_of(p, d)
        if d.flat then
            requires[#requires + 1] = { expr = string.format("W <= %d", d.most_w), why = "a tile must hold whole lines" }
        end
        requires[#requires + 1] = { expr = string.format("%sW * %d %% 16 == 0", d.flat and "H * " or "", p.bytes),
                                    why = string.format("%s must be multiples of 16 bytes", d.flat and "planes" or "rows") }
    end
    local args = launch.args(p, { x, d.packs and call("packed", "0") or filters_of(p, s, d) },
                             { "N", "H", "W", "P", "Q", table.unpack(sizes) }, (d.stores_boxes or d.stores_planes) and outputs_of(p, d) or nil)
    if d.stores_planes then
        requires[#requires + 1] = { expr = string.format("Q * %d %% 16 == 0", p.bytes),
                                    why = "rows of the output must be multiples of 16 bytes" }
    end
    args[#args + 1] = call("i32", tiles)
    local launches, packed, packed_k = {}, nil, nil
    if d.packs then
        launches[1], packed_k = pack(p, t, s, d)
        packed = tostring(d.parts * d.tiles_k * d.tile_k * d.chunks * p.r * p.s * s.cb)
    end
    if d.transpose then
        launches[#launches + 1] = {
            suffix = "_transpose", block = { 256, 1, 1 }, smem = p.layout == "nchw" and "8192" or "0", overlap = d.packs or nil,
            grid = { string.format("N * ceildiv(H * W, 64) * %d", ceildiv(d.x_channels * p.bytes, 128)), "1", "1" },
            args = { call("input"), call("workspace", "0"), call("i32", "H * W") },
        }
    end
    local blocks = d.split and string.format("%d * (%s)", s.split, tiles) or string.format("min(%d, %s)", t.sms, tiles)
    launches[#launches + 1] = {
        suffix = "", grid = { blocks, "1", "1" }, cluster = d.split and { s.split, 1, 1 } or nil, block = { 128 + 128 * CONSUMERS, 1, 1 },
        smem = tostring(d.smem), args = args, overlap = #launches > 0 or nil,
    }
    return {
        template = "conv2d_wgmma.cu.in", align = 16,
        env = { cuda = cuda, p = p, s = s, d = d, packed_k = packed_k, launches = launches },
        requires = requires,
        workspace = d.transpose and string.format("N * H * W * %d", d.x_channels * p.bytes) or "0", packed = packed,
        launches = launches, parts = #launches > 1 and 2 or nil,
    }
end

return wgmma
