-- gemm.lua: 1x1 filters on Hopper, as a matrix product whose operands and results are moved by the tensor copy engine.
--
-- A 1x1 convolution is a matrix product of pixels (rows) and filters (columns), of the tensors as they are. Two warpgroups of a block
-- multiply tiles of 64 pixels each; a thread fetches ahead, and outputs are staged in shared memory and copied as boxes, whose parts
-- outside of the tensor the hardware leaves out. There are two kinds:
-- - hold=1: a block keeps its filters of all channels in shared memory, and its warpgroups are independent, each with a ring of
--   stages for its pixels: while one waits or stores, the other multiplies.
-- - hold=0: weights and the pixels of both warpgroups come through one ring. (Blocks of a cluster that each fetch a part of the weights
--   for all were no faster.)
--
-- The engine rounds floats to TF32 on their way. In strict f32 weights are split into two TF32 numbers by a launch before, pixels in
-- registers. Channels of floats in NCHW are not neighbours, as wgmma wants them in shared memory: those pixels go through registers, too.

local cuda = require "cuda"
local launch = require "launch"

local ceildiv <const>, roundup <const> = cuda.ceildiv, cuda.roundup
local min <const>, max <const>, ipairs <const> = math.min, math.max, ipairs

local gemm = {}

gemm.parameters = {
    { "tk", 32, 256 },   -- filters of a block
    { "st", 2, 16 },     -- stages of a warpgroup's ring
    { "bq", 1, 64 },     -- a warpgroup's pixels: columns, 64 pixels that follow one another where there is no stride,
    { "bp", 1, 64 },     -- rows,
    { "bn", 1, 64 },     -- and images
    { "hold", 0, 1 },    -- the weights of all channels stay in shared memory
    { "one", 0, 1 },     -- nchw: images are of one pixel, so that memory is as in nhwc
    { "pairs", 0, 1 },   -- nchw, 16 bit: channels are copied in pairs, so that they need not be multiples of 16 bytes apart
    { "piece", 0, 4 },   -- nchw: pixels that a thread stores at once, where outputs are no boxes; 0: they are
}

local SHORTEST_EXACT_SUM <const> = 32   -- see pointwise.lua
local GROUPS <const> = 2                -- warpgroups that multiply
local ROW <const> = 128                 -- bytes of a row of channels
local PIXELS <const> = 64               -- that a warpgroup multiplies at a time
local PADDING <const> = 8               -- pixels behind the 64 of a channel, so that fragments meet no bank twice
local MOST_STAGES <const> = 16
local MOST_BOX <const> = 256            -- elements of a box of a tensor map, in each direction

function gemm.applies(p, t)
    if t.arch ~= "sm_90a" then return false, "wgmma is an instruction of sm_90a" end
    if p.r ~= 1 or p.s ~= 1 then return false, "it is for filters of one pixel" end
    if p.groups ~= 1 then return false, "it multiplies all channels; groups would be mostly zeros" end
    if p.pad_top + p.pad_left + p.pad_bottom + p.pad_right > 0 then return false, "a padded 1x1 filter reads no plain matrix" end
    if p.c * p.bytes % 16 ~= 0 then return false, "rows of channels that are no multiple of 16 bytes are no tensor to the copy engine" end
    if p.layout == "nhwc" and p.k * p.bytes % 16 ~= 0 then
        return false, "rows of filters that are no multiple of 16 bytes are no tensor to the copy engine"
    end
    if p.math == "f32" and p.c < SHORTEST_EXACT_SUM then
        return false, string.format("a sum of %d products is more exact by FMA", p.c)
    end
    return true
end

local function derive(p, s, t)
    local nhwc = p.layout == "nhwc" or s.one == 1
    local d = { nhwc = nhwc, channels = ROW // p.bytes, groups = GROUPS, pixels = s.bq * s.bp * s.bn, flat = p.stride_h * p.stride_w == 1 }
    d.parts = p.math == "f32" and 2 or 1
    d.chunks, d.tiles_k = ceildiv(p.c * p.bytes, ROW), ceildiv(p.k, s.tk)
    d.gathered = not nhwc and (p.bytes == 4 or s.piece > 0)   -- fragments are gathered from channels that are apart
    d.registers_a = d.gathered or p.math == "f32"       -- pixels go to wgmma through registers
    d.box_w = roundup((s.bq - 1) * p.stride_w + 1, 16 // p.bytes)   -- columns of x, where those of y are a stride apart
    d.x_pitch = (d.flat and PIXELS + PADDING or s.bp * d.box_w) * p.bytes
    d.copied_bytes = d.gathered and d.channels * d.x_pitch or d.pixels * ROW
    d.x_bytes = d.gathered and roundup(d.copied_bytes, 1024) or PIXELS * ROW
    d.stores = s.tk // d.channels
    d.buffers = d.stores % 2 == 0 and 2 or d.stores   -- of outputs on their way to memory: all tiles begin with the same one
    local weights = d.parts * s.tk * ROW   -- of a chunk
    d.weights_bytes = d.chunks * weights
    d.stage_bytes = GROUPS * d.x_bytes + (1 - s.hold) * weights   -- of all rings
    d.fixed = s.hold * (d.weights_bytes + 8 * d.chunks) + GROUPS * d.buffers * PIXELS * ROW + 16 * GROUPS * MOST_STAGES + (p.bias and 4 * s.tk or 0)
    d.smem = d.fixed + s.st * d.stage_bytes
    d.unroll_store = s.piece == 4 and "" or "4"
    d.producer_registers, d.consumer_registers = 40, 232
    return d
end

local shape <const> = launch.remember(derive)

local WIDTHS <const> = { [32] = true, [64] = true, [128] = true, [192] = true, [256] = true }

function gemm.check(p, t, s)
    local ok, reason = gemm.applies(p, t)
    if not ok then return reason end
    local d = shape(p, s, t)
    if not WIDTHS[s.tk] or s.tk < d.channels then return string.format("%d filters of a block", s.tk) end
    if s.tk > 128 and p.math == "f32" then return "products and sums of 256 filters are more than a thread's registers" end
    if d.pixels > PIXELS then return string.format("%d pixels; at most %d", d.pixels, PIXELS) end
    if d.flat and s.bq ~= PIXELS then return "pixels that follow one another are taken by 64" end
    if s.one == 1 and (p.layout == "nhwc" or p.k * p.bytes % 16 ~= 0) then return "images of one pixel are rows of filters, a multiple of 16 bytes" end
    if s.pairs == 1 and (d.nhwc or not d.flat or p.bytes == 4 or p.c % 2 == 1) then return "pairs are of channels of 16-bit planes" end
    if (s.piece > 0) ~= (not d.nhwc and (s.pairs == 1 or not d.flat)) then return "outputs are boxes unless they begin anywhere" end
    if s.piece == 3 or s.pairs == 1 and s.piece < 4 then return string.format("pieces of %d pixels", s.piece) end
    if not d.nhwc and not d.flat then
        if s.bn > 1 or s.bq % s.piece > 0 then return "a tile is of whole pieces of one image" end
        if d.box_w > MOST_BOX or s.bq * p.stride_w * p.bytes % 16 > 0 then return string.format("a box of %d columns", d.box_w) end
    end
    if d.smem > t.smem_block then return string.format("%d bytes of shared memory; at most %d", d.smem, t.smem_block) end
end

-- The box of at most 64 outputs by which the fewest tiles cover all: columns, a multiple of `step`, rows, and of so many images at most.
local function best_box(p, step, most_images)
    local best, bq, bp, bn
    for columns = step, min(roundup(p.q, step), PIXELS), step do
        local most_rows = min(p.p, PIXELS // columns)
        local tiles_q = ceildiv(p.q, columns)
        for _, rows in ipairs { most_rows, max(1, most_rows - 1), ceildiv(p.p, ceildiv(p.p, most_rows)) } do
            local images = min(p.n, most_images, PIXELS // (columns * rows))
            local tiles = tiles_q * ceildiv(p.p, rows) * ceildiv(p.n, images)
            if not best or tiles <= best then best, bq, bp, bn = tiles, columns, rows, images end
        end
    end
    return bq, bp, bn
end

-- How the channels of nchw, which are apart, can be copied: { pairs, piece }, or nil if they cannot.
local function planes_of(p)
    if p.stride_h * p.stride_w > 1 then
        if p.stride_h * p.w * p.bytes % 16 > 0 or p.h * p.w * p.bytes % 16 > 0 then return nil end
        return { 0, cuda.power_in(p.q, 4) }
    end
    if p.h * p.w * p.bytes % 16 == 0 then return { 0, 0 } end
    if p.bytes == 2 and p.h * p.w % 4 == 0 then return { 1, 4 } end
end

function gemm.candidates(p, t)
    local list = {}
    local one = p.layout == "nchw" and p.h * p.w == 1 and p.k * p.bytes % 16 == 0
    local nhwc = p.layout == "nhwc" or one
    local planes = nhwc and { 0, 0 } or planes_of(p)
    if not planes then return list end
    local bq, bp, bn = PIXELS, 1, 1
    if p.stride_h * p.stride_w > 1 then   -- a box of x begins at a multiple of 16 bytes
        bq, bp, bn = best_box(p, nhwc and 1 or max(4, 16 // cuda.power_in(p.stride_w * p.bytes, 16)), nhwc and PIXELS or 1)
    end
    for _, tk in ipairs { 256, 192, 128, 64, 32 } do
        for hold = 1, 0, -1 do
            local s = { tk = tk, st = 2, bq = bq, bp = bp, bn = bn, hold = hold, one = one and 1 or 0, pairs = planes[1], piece = planes[2] }
            local d = derive(p, s, t)
            s.st = min(MOST_STAGES, (t.smem_block - d.fixed) // d.stage_bytes)
            local fits = (tk < 2 * p.k or tk == 64) and (tk ~= 192 or roundup(p.k, 192) < roundup(p.k, 256)) and (hold == 1 or tk >= 64)
            if s.st >= 3 and fits then list[#list + 1] = s end
        end
    end
    return list
end

-- Fitted to 860 measurements on an H200, in clocks of a multiprocessor.
local RATE <const> = { f16 = 3720, bf16 = 3720, tf32 = 1890, f32 = 590 }   -- FLOP a clock and multiprocessor
local ROUND <const> = { [true] = 550, [false] = 100 }   -- of a warpgroup alone for a chunk, on top of its products: pixels in registers or not
local FETCH <const> = 44           -- bytes a clock from the L2 cache
local LATENCY <const> = 1680       -- from a copy's start to its end
local STORE <const>, TILE <const> = { nhwc = 140, boxes = 410, pieces = 1280 }, 100   -- of 64 pixels in rows of 128 bytes, and of a tile
local START <const> = 2570         -- from the first instruction to the first product, and the last stores
local MIX <const> = 0.15           -- the part of the shorter of products and memory that adds to the longer
local DRAM_SHARE <const>, RUN_BYTES <const> = 0.885, 6   -- of the memory's bandwidth; what each run of y's bytes costs more
local AGAIN <const> = 1.06         -- how much longer the memory takes where pixels are read for several blocks of filters
local LAUNCH_US <const>, PACK_US <const> = 6.1, 0.3

-- Tiles of pixels.
local function tiles_of(p, s, d)
    if not d.flat then return ceildiv(p.q, s.bq) * ceildiv(p.p, s.bp) * ceildiv(p.n, s.bn) end
    return d.nhwc and ceildiv(p.n * p.p * p.q, PIXELS) or p.n * ceildiv(p.p * p.q, PIXELS)
end

function gemm.time(p, t, s)
    local d = shape(p, s, t)
    local tile_pairs = ceildiv(tiles_of(p, s, d), GROUPS)
    local rounds = ceildiv(tile_pairs, max(1, t.sms // d.tiles_k)) * ceildiv(d.tiles_k, t.sms)
    local weights = d.weights_bytes / d.chunks   -- of a chunk
    local multiply = 2 * PIXELS * s.tk * d.channels / RATE[p.math]   -- a chunk of a tile
    local latency = LATENCY / (s.st - 1)
    local fetch = (GROUPS * d.x_bytes + (1 - s.hold) * weights) / FETCH
    local store = d.stores * STORE[d.nhwc and "nhwc" or s.piece > 0 and "pieces" or "boxes"] + TILE
    local round
    if s.hold == 1 then   -- the slowest of one warpgroup, the tensor cores and the copies
        round = max(d.chunks * max(multiply + ROUND[d.registers_a], latency) + store, d.chunks * max(GROUPS * multiply, fetch))
    else
        round = d.chunks * max(GROUPS * multiply, fetch, latency) + store
    end
    local busy = 1e6 * (rounds * round + START + s.hold * min(d.chunks, 3) * weights / FETCH) / t.clock
    local run = d.nhwc and min(s.tk, p.k) * p.bytes or PIXELS * p.bytes
    local read = d.nhwc and p.n * p.p * p.q or p.n * p.p * p.w
    local memory = 1e6 * (read * p.c + p.n * p.p * p.q * p.k + p.k * p.c) * p.bytes / (DRAM_SHARE * t.bandwidth) * (1 + RUN_BYTES / run)
    if d.tiles_k > 1 then memory = AGAIN * memory end
    return LAUNCH_US + max(busy, memory) + MIX * min(busy, memory) + (d.parts - 1) * PACK_US
end

function gemm.explain(p, s)
    return string.format("%d filters a block%s, two warpgroups with tiles of %d pixels, %d stages", s.tk,
                         s.hold == 1 and ", which stay in shared memory" or "", s.bq * s.bp * s.bn, s.st)
end

-- The maps of x, the weights and y.
local function maps_of(p, s, d)
    local function map(tensor, dims, strides, box, rounded)
        local element_strides = {}
        for i = 1, #box do element_strides[i] = 1 end
        return { kind = "tensor_map", tensor = tensor, element = p.bytes == 2 and p.math or rounded and p.math == "tf32" and "tf32" or "f32",
                 swizzle = ROW, dims = dims, strides = strides, box = box, element_strides = element_strides }
    end
    local bytes_c, bytes_k = p.c * p.bytes, p.k * p.bytes
    local c, k, stored = tostring(p.c), tostring(p.k), d.channels
    local w = map(d.parts > 1 and "packed" or "weights", { c, tostring(d.parts * p.k) }, { tostring(bytes_c) }, { d.channels, s.tk }, true)
    if not d.nhwc and not d.flat then
        local x = map("input", { "W", "P", c, "N" }, { string.format("W * %d", p.stride_h * p.bytes), string.format("H * W * %d", p.bytes),
                                                       string.format("H * W * %d", bytes_c) }, { d.box_w, s.bp, d.channels, 1 }, true)
        x.swizzle = 0
        return x, w, launch.arg("output")
    elseif not d.nhwc then
        local per_row = 1 + s.pairs   -- channels
        local x = map("input", { string.format("%d * H * W", per_row), tostring(p.c // per_row), "N" },
                      { string.format("H * W * %d", per_row * p.bytes), string.format("H * W * %d", bytes_c) },
                      { d.gathered and PIXELS + PADDING or PIXELS, d.channels // per_row, 1 }, true)
        if d.gathered then x.swizzle = 0 end
        if s.pairs == 1 then return x, w, launch.arg("output") end
        return x, w, map("output", { "P * Q", k, "N" }, { string.format("P * Q * %d", p.bytes), string.format("P * Q * %d", bytes_k) },
                         { ROW // p.bytes, stored, 1 })
    elseif d.flat then
        return map("input", { c, "N * H * W" }, { tostring(bytes_c) }, { d.channels, PIXELS }, true), w,
               map("output", { k, "N * P * Q" }, { tostring(bytes_k) }, { stored, PIXELS })
    end
    return map("input", { c, "Q", "P", "N" }, { tostring(bytes_c * p.stride_w), string.format("W * %d", bytes_c * p.stride_h),
                                                string.format("H * W * %d", bytes_c) }, { d.channels, s.bq, s.bp, s.bn }, true), w,
           map("output", { k, "Q", "P", "N" }, { tostring(bytes_k), string.format("Q * %d", bytes_k), string.format("P * Q * %d", bytes_k) },
               { stored, s.bq, s.bp, s.bn })
end

function gemm.launch(p, t, s)
    local d = shape(p, s, t)
    local call <const> = launch.arg
    local requires = { { expr = string.format("N * H * W <= %d", launch.MOST_PIXELS), why = "there must be at most 2^30 pixels" } }
    local integers, tiles
    if not d.flat then
        local tiles_q, tiles_p = string.format("ceildiv(Q, %d)", s.bq), string.format("ceildiv(P, %d)", s.bp)
        integers, tiles = { tiles_q, tiles_p }, string.format("%s * %s * ceildiv(N, %d)", tiles_q, tiles_p, s.bn)
        d.parameters = "int tiles_q, int tiles_p"
        if p.residual or s.piece > 0 then
            integers[3], integers[4], integers[5] = "N", "P", "Q"
            d.parameters = d.parameters .. ", int N, int P, int Q"
        end
        if s.piece > 0 then
            requires[2] = { expr = string.format("W %% %d == 0 && H * W %% %d == 0 && Q %% %d == 0",
                                                 16 // cuda.power_in(p.stride_h * p.bytes, 16), 16 // p.bytes, s.piece),
                            why = string.format("rows must be multiples of 16 bytes apart, and rows of outputs multiples of %d", s.piece) }
        end
    elseif d.nhwc then
        integers, tiles = { "N * P * Q" }, string.format("ceildiv(N * P * Q, %d)", PIXELS)
        d.parameters = "int pixels"
    else
        local tiles_image = string.format("ceildiv(P * Q, %d)", PIXELS)
        integers, tiles = { "P * Q", tiles_image }, "N * " .. tiles_image
        d.parameters = "int plane, int tiles_image"
        local multiple = s.pairs == 1 and 8 or 16
        requires[2] = { expr = string.format("H * W %% %d == 0", multiple // p.bytes),
                        why = string.format("channels must be a multiple of %d bytes apart", multiple) }
    end
    if s.one == 1 then requires[2] = { expr = "H * W == 1", why = "its images are of one pixel" } end
    integers[#integers + 1] = tiles
    local x, w, y = maps_of(p, s, d)
    local args = launch.args(p, { x, w }, integers)
    for i, arg in ipairs(args) do
        if arg.kind == "output" then args[i] = y end
    end
    local launches = {}
    if d.parts > 1 then
        launches[1] = { suffix = "_pack", grid = { tostring(ceildiv(p.k * p.c // 4, 128)), "1", "1" }, block = { 128, 1, 1 }, smem = "0",
                        args = { call("weights"), call("packed", "0") }, packs = true }
    end
    launches[#launches + 1] = {
        suffix = "", block = { 128 + 128 * GROUPS, 1, 1 }, smem = tostring(d.smem), args = args, overlap = d.parts > 1 or nil,
        grid = { string.format("min(%d, ceildiv(%s, %d)) * %d", max(1, t.sms // d.tiles_k), tiles, GROUPS, d.tiles_k), "1", "1" },
    }
    return {
        template = "conv2d_gemm.cu.in", env = { cuda = cuda, p = p, s = s, d = d }, align = 16, requires = requires, workspace = "0",
        packed = d.parts > 1 and tostring(2 * p.k * p.c * 4) or nil, launches = launches,
    }
end

return gemm
