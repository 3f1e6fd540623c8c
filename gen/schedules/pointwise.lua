-- pointwise.lua: 1x1 filters on tensor cores, as a product of the weights and the pixels where they lie.
--
-- A 1x1 convolution is a matrix product: nothing has to be packed or transposed. Filters and, in NHWC, pixels are rows of
-- channels; in NCHW, channels are rows of pixels, which ldmatrix transposes for 16-bit types and plain loads gather for floats.
-- Pixels are counted through all rows and images, so that tiles are full however small the images are.
-- A block keeps its filters and takes tile after tile of pixels; cp.async fetches some rounds ahead, across tiles.
-- Where channels are innermost, groups are a product each; and strict f32's sums that are too short for tensor cores are FMAs, of the
-- same fragments.

local cost = require "cost"
local cuda = require "cuda"
local launch = require "launch"

local ceildiv <const> = cuda.ceildiv
local power_in <const> = cuda.power_in
local min <const>, max <const>, ipairs <const> = math.min, math.max, ipairs

local pointwise = {}

local MOST_STAGES <const> = 8
local SMALL_WEIGHTS <const> = 32 << 10
local MOST_PLANE <const> = 256     -- pixels of an image that is fetched whole
local STORE_BYTES <const> = 256   -- of a row of sums that a warp stores at a time, at most
-- Worth a copy of their code for each register: then sums are rounded before they go through shared memory.
local SHORT_ACTIVATIONS <const> = { identity = true, relu = true, leaky_relu = true, clamp = true, hardswish = true }

pointwise.parameters = {
    { "tk", 16, 256 },   -- filters of a block
    { "tp", 16, 256 },   -- pixels of a block
    { "wk", 1, 8 },      -- warps along the filters
    { "wp", 1, 8 },      -- warps along the pixels
    { "cb", 64, 128 },   -- bytes of a row of channels: 64 or 128
    { "st", 2, MOST_STAGES },      -- stages of a block's pipeline
    { "pv", 1, 8 },      -- nchw: pixels of one copy and one store; P * Q is a multiple
    { "hold", 0, 1 },    -- the weights of all channels stay in shared memory
    { "wg", 0, 1 },      -- products by wgmma, not mma.sync
    { "sp", 1, 8 },      -- blocks of a cluster, which split the channels
    { "ni", 0, 16 },     -- nchw: images of a block, whole, for planes whose channels begin anywhere; 0: tiles may begin and end within one
    { "pl", 0, 1024 },   -- and pixels of an image of x, at most; 1 with ni=0: images are of one pixel, so that memory is as in nhwc
}

-- Three TF32 products leave up to 3 * 2^-22 of each product out; an FP32 FMA loop over fewer products than this is more exact,
-- and strict f32 promises no less.
local SHORTEST_EXACT_SUM <const> = 32
local MOST_REGISTERS <const> = 248   -- of a thread, as estimated here
local MOST_PIXELS <const> = launch.MOST_PIXELS

local CLUSTERS <const> = { sm_90 = true, sm_90a = true, sm_100 = true, sm_120 = true }

function pointwise.applies(p, t)
    if p.r ~= 1 or p.s ~= 1 then return false, "it is for filters of one pixel" end
    if p.pad_top + p.pad_left + p.pad_bottom + p.pad_right > 0 then return false, "a padded 1x1 filter reads no plain matrix" end
    return true
end

-- Whether channels are next to one another.
local function channels_last(p, s) return p.layout == "nhwc" or s.ni == 0 and s.pl == 1 end

local PIECE_TYPES <const> = { [2] = "unsigned short", [4] = "unsigned", [8] = "uint2", [16] = "uint4" }

local function derive(p, s, t)
    local nhwc = channels_last(p, s)
    local d = { nhwc = nhwc, channels = s.cb // p.bytes, threads = 32 * s.wk * s.wp }
    d.fma = p.math == "f32" and p.cg < SHORTEST_EXACT_SUM
    d.exact = p.math == "f32" and not d.fma   -- three TF32 products
    d.splits = d.exact and 2 or 1   -- numbers that a float is multiplied as the sum of
    d.chunks, d.group_tiles = ceildiv(p.cg, d.channels), ceildiv(p.kg, s.tk)
    d.tiles_k = p.groups * d.group_tiles
    d.warp_k, d.warp_p = s.tk // s.wk, s.tp // s.wp
    d.floats = s.wg == 1 and p.bytes == 4   -- they go to wgmma through registers, where they are rounded: it would truncate
    local pixel_rows = nhwc or d.floats
    d.warps_r, d.warps_c = pixel_rows and s.wp or s.wk, pixel_rows and s.wk or s.wp
    d.warp_rows, d.warp_columns = pixel_rows and d.warp_p or d.warp_k, pixel_rows and d.warp_k or d.warp_p
    d.lag = s.wg == 1 and not d.floats and 2 or 1   -- a stage is filled anew that many rounds after it was multiplied, or later
    d.w_copy = power_in(p.cg * p.bytes, 16)
    if nhwc then
        d.x_copy, d.x_bytes = d.w_copy, s.tp * s.cb
        d.lines_x = s.tp * s.cb / (d.x_copy * d.threads)
        d.piece = power_in(p.kg, 16 // p.bytes)
    else
        d.x_copy = s.ni > 0 and 16 or (p.stride_h * p.stride_w > 1 and 1 or s.pv) * p.bytes
        d.x_pitch = s.tp * p.bytes + (p.bytes == 4 and 32 or s.wg == 1 and 0 or 16)
        d.x_bytes = s.ni > 0 and cuda.roundup(s.ni * d.channels * s.pl * p.bytes, 1024) or d.channels * d.x_pitch
        d.piece = s.pv
    end
    -- of a strip of sums on its way to memory: a warp's, or all of a cluster's tile
    d.narrow = p.bytes == 2 and s.sp == 1 and not p.residual and SHORT_ACTIVATIONS[p.activation] or false
    d.transposed = d.floats and not nhwc
    local columns = s.sp == 1 and min(d.warp_columns, STORE_BYTES // (d.narrow and 2 or 4)) or nhwc and s.tk or s.tp
    if d.transposed then
        columns, d.store_rows = 16, min(s.tk, STORE_BYTES // 4)
        d.parts_c, d.strips = s.tk // d.store_rows, s.wp * d.store_rows * (columns + 4) * 4
        d.parts = d.warp_rows // 16 * d.parts_c
    else
        d.store_columns, d.parts_c = columns, d.warp_columns // columns
        d.parts = d.warp_rows // 8 * d.parts_c
        d.strips = (s.sp == 1 and s.wk * s.wp * 8 or nhwc and s.tp or s.tk) * (columns + 8) * (d.narrow and 2 or 4)
    end
    d.piece = min(d.piece, columns)
    d.piece_type = PIECE_TYPES[d.piece * p.bytes]
    d.lanes_c = min(32, columns // d.piece)
    d.weights_bytes = s.tk * s.cb
    d.my_chunks = ceildiv(d.chunks, s.sp)
    d.stage_bytes = d.x_bytes + (1 - s.hold) * d.weights_bytes
    d.fixed = s.hold * d.chunks * d.weights_bytes + (s.sp == 1 and d.strips or 0)
    if s.wg == 1 and d.exact then   -- room for what TF32 drops of the weights
        d.fixed = d.fixed + (s.hold == 1 and d.chunks or 1) * d.weights_bytes
    end
    d.smem = d.fixed + max(s.st * d.stage_bytes, s.sp > 1 and d.strips or 0)
    d.accumulators = d.warp_k * d.warp_p // 32
    local fragments = d.floats and d.warp_rows // 16 * (s.cb // 8) or s.wg == 0 and (d.warp_rows + d.warp_columns) // 4 or 0
    d.registers = d.splits * (d.accumulators + fragments) + 40
    d.by_registers = d.registers > MOST_REGISTERS and 0 or min(8, t.registers_sm // (d.threads * d.registers))
    d.resident = max(1, min(d.by_registers, t.smem_sm // (d.smem + t.smem_reserved)))
    return d
end

local shape <const> = launch.remember(derive)

local POWERS <const> = { [1] = true, [2] = true, [4] = true, [8] = true, [16] = true, [32] = true, [64] = true, [128] = true, [256] = true }

function pointwise.check(p, t, s)
    local ok, reason = pointwise.applies(p, t)
    if not ok then return reason end
    for _, name in ipairs { "tk", "tp", "wk", "wp", "cb", "pv", "sp" } do
        if not POWERS[s[name]] then return string.format("%s is %d, no power of two", name, s[name]) end
    end
    local d = shape(p, s, t)
    if p.groups > 1 and not d.nhwc then return "it multiplies all channels; groups would be mostly zeros" end
    if d.fma and not d.nhwc then
        return string.format("a sum of %d products is more exact by FMA, which takes channels that are next to one another", p.cg)
    end
    if s.wg == 1 then
        if d.fma then return string.format("a sum of %d products is more exact by FMA", p.cg) end
        if t.arch ~= "sm_90a" then return "wgmma is an instruction of sm_90a" end
        if d.transposed and s.sp > 1 then return "a cluster's blocks add rows of y, and these are rows of pixels" end
        if d.warps_c > 1 or d.warps_r % 4 ~= 0 then return "a warpgroup takes all columns of its rows" end
        if s.ni > 0 and p.bytes == 2 then return "wgmma takes pixels in rows of 128 bytes" end
        if d.warp_columns < 64 and p.bytes == 2 and not d.nhwc then return "a panel is 128 bytes of pixels" end
        if s.st <= d.lag then return "wgmma reads one stage while another is filled" end
    end
    if s.ni > 0 then
        if p.layout == "nhwc" or s.pl == 0 then return "there are no planes" end
        if p.c * p.bytes % 16 ~= 0 then return "channels of an image begin at no multiple of 16 bytes" end
    end
    if s.sp > 1 then
        if not CLUSTERS[t.arch] then return t.arch .. " has no clusters of blocks" end
        if s.hold == 1 then return "a cluster's blocks hold no weights" end
        if d.my_chunks * (s.sp - 1) >= d.chunks then return string.format("%d chunks of channels for %d blocks", d.chunks, s.sp) end
    end
    if d.warp_rows < 16 or d.warp_columns < 16 then return "a warp multiplies at least 16 x 16" end
    if s.pv * p.bytes > 16 or (d.nhwc and s.pv > 1) then return string.format("pieces of %d pixels", s.pv) end
    if d.threads > 512 then return string.format("%d threads; at most 512", d.threads) end
    if s.ni == 0 and (d.nhwc and s.cb or s.tp * p.bytes) // d.x_copy > d.threads then
        return "a row of pixels has more copies than there are threads"
    end
    if d.by_registers < 1 then return string.format("about %d registers a thread", d.registers) end
    if d.smem > t.smem_block then return string.format("%d bytes of shared memory; at most %d", d.smem, t.smem_block) end
end

-- Rows x columns of the product of a block, and warps along them. Rows are filters in NCHW and pixels in NHWC, and pixels of
-- floats by wgmma.
local SHAPES <const> = {
    { 128, 128, 4, 2 }, { 128, 64, 4, 1 }, { 64, 128, 2, 2 }, { 64, 64, 2, 2 }, { 256, 128, 4, 2 }, { 128, 256, 2, 4 },
    { 64, 32, 4, 1 }, { 32, 64, 2, 2 }, { 32, 32, 2, 1 }, { 128, 32, 4, 1 },
}
local WGMMA_SHAPES <const> = {
    { 128, 128, 8, 1 }, { 128, 256, 8, 1 }, { 256, 128, 8, 1 }, { 64, 128, 4, 1 }, { 64, 64, 4, 1 }, { 128, 64, 8, 1 },
}

-- The stages that fit, for as many blocks on a multiprocessor as leave room for two rounds ahead; `blocks` of all.
local function stages(p, t, s, blocks)
    local d = derive(p, s, t)
    for resident = min(d.by_registers, ceildiv(blocks, t.sms)), 1, -1 do
        local room = min(t.smem_block, t.smem_sm // resident - t.smem_reserved) - d.fixed
        local least = d.lag + (resident > 1 and 2 or 1)
        if room >= least * d.stage_bytes then
            return min(MOST_STAGES, room // d.stage_bytes)
        end
    end
end

function pointwise.candidates(p, t)
    local list = {}
    local one = p.layout == "nchw" and p.h * p.w == 1
    local nhwc = p.layout == "nhwc" or one
    local pv = nhwc and 1 or power_in(p.p * p.q, 16 // p.bytes)
    local cb = p.cg * p.bytes <= 64 and 64 or 128
    local chunks = ceildiv(p.cg * p.bytes, cb)
    local refused = not nhwc and (p.groups > 1 or p.math == "f32" and p.c < SHORTEST_EXACT_SUM)   -- one candidate, for `check` to say why
    local fma = p.math == "f32" and p.cg < SHORTEST_EXACT_SUM
    local pixels = p.n * p.p * p.q
    -- planes of which no row, or not all of it, can be copied 8 bytes at a time are fetched whole
    local planes = not nhwc and (pv * p.bytes < 8 or p.stride_h * p.stride_w > 1) and p.c * p.bytes % 16 == 0 and p.h * p.w <= MOST_PLANE
    local function add(tk, tp, wk, wp, hold, wg, sp)
        local s = { tk = tk, tp = tp, wk = wk, wp = wp, cb = cb, st = 2, pv = pv, hold = hold, wg = wg, sp = sp, ni = 0, pl = one and 1 or 0 }
        if planes and tp >= p.p * p.q then s.ni, s.pl = min(16, p.n, tp // (p.p * p.q)), p.h * p.w end
        s.st = stages(p, t, s, p.groups * ceildiv(p.kg, tk) * ceildiv(pixels, tp) * sp)
        if s.st and not (refused and list[1]) then list[#list + 1] = s end
    end
    local wgmma = t.arch == "sm_90a" and not fma and (nhwc or p.bytes == 4 or pv > 1 and p.stride_h * p.stride_w == 1 and not planes)
    for wg = 0, wgmma and 1 or 0 do
        for _, each in ipairs(wg == 1 and WGMMA_SHAPES or SHAPES) do
            local tk, wk, tp, wp = each[1], each[3], each[2], each[4]
            if nhwc or wg == 1 and p.bytes == 4 then tk, wk, tp, wp = tp, wp, tk, wk end
            local fits = (tk < 2 * p.kg or tk <= (p.groups > 1 and 32 or 64)) and (tp < 2 * pixels or tp <= 64)
            if fits and not (tk == 128 and tp == 256 and p.kg >= 256) then   -- 256 filters x 128 pixels are better then
                local tiles = p.groups * ceildiv(p.kg, tk) * ceildiv(pixels, tp)
                -- weights that are used again stay, unless they are many
                if tiles <= t.sms or tk * p.cg * p.bytes > SMALL_WEIGHTS then add(tk, tp, wk, wp, 0, wg, 1) end
                if tiles > t.sms then
                    add(tk, tp, wk, wp, 1, wg, 1)
                elseif CLUSTERS[t.arch] and not (wg == 1 and p.bytes == 4 and not nhwc) then
                    for _, sp in ipairs { 2, 4, 8 } do
                        -- a cluster lies within one of the parts of the device, where the larger it is the more is left over
                        local room = tiles * sp * (14 + sp) <= 16 * t.sms
                        if room and ceildiv(chunks, sp) * (sp - 1) < chunks then add(tk, tp, wk, wp, 0, wg, sp) end
                    end
                end
            end
        end
    end
    return list
end

-- Fitted to 2,600 measurements on an H200, in clocks of a multiprocessor and bytes a clock.
local RATE <const> = {   -- FLOP a clock and multiprocessor, by mma.sync and by wgmma
    [0] = { f16 = 1780, bf16 = 1780, tf32 = 1040, f32 = 303, fma = 190 },
    [1] = { f16 = 4100, bf16 = 4100, tf32 = 1250, f32 = 417 },
}
local PLANES <const> = 1.66         -- products take so much longer where pixels are gathered from whole planes
local ROUND <const> = { [0] = 507, [1] = 365 }   -- of a block alone on top of its products, by mma.sync and by wgmma
local RESTS <const> = 226           -- more of these for the pass that writes what TF32 drops
local LATENCY <const> = 2020        -- from a copy's start to its end
local SINGLE <const> = 11           -- of a warp's copy of one pixel a lane
local L2_SHARE <const>, L2_ONE <const> = 1.27, 35.5   -- of the L2 cache's bandwidth, and bytes a clock from it to one multiprocessor
local PART <const>, PART_WARP <const> = 264, 15       -- of a strip of sums on its way to memory, for a warp alone and for each warp
local STORE <const> = 24            -- bytes of y a clock
local START <const> = 2810          -- from the first instruction to the first product, and the last stores
local CLUSTER <const> = 676         -- for each block of a cluster
local MIX <const> = 0.44            -- the part of the shorter of products and copies that adds to the longer
local DRAM_SHARE <const>, RUN_BYTES <const> = 0.95, 10   -- of the memory's bandwidth; what each run of y's bytes costs more
local LAUNCH_US <const>, HALVES <const> = 4.9, 1.35   -- 16-bit products of several rounds by wgmma take so much longer than this says

function pointwise.time(p, t, s)
    local d = shape(p, s, t)
    local pixels = p.n * p.p * p.q
    local tiles = s.ni > 0 and ceildiv(p.n, s.ni) or ceildiv(pixels, s.tp)
    local blocks, rounds = tiles * d.tiles_k * s.sp, 0
    if s.sp == 1 then
        local slots = max(1, t.sms * d.resident // d.tiles_k)   -- blocks that share the tiles of pixels
        rounds, blocks = ceildiv(tiles, slots), min(slots, tiles) * d.tiles_k
    else
        rounds = ceildiv(blocks, t.sms * d.resident)
    end
    local together = min(d.resident, ceildiv(blocks, t.sms))
    local bandwidth = min(L2_ONE, L2_SHARE * t.l2_bandwidth / t.clock / min(t.sms, blocks))
    local products = 2 * s.tk * s.tp * d.channels / RATE[s.wg][d.fma and "fma" or p.math] * (s.ni > 0 and PLANES or 1)
    local fetched = (s.ni > 0 and d.x_bytes or s.tp * s.cb) + (1 - s.hold) * d.weights_bytes
    local ahead = max(1, s.st - d.lag)
    local alone = max(LATENCY / ahead, products + ROUND[s.wg] + s.wg * (d.splits - 1) * RESTS)
    local multiply, fetch = together * products, together * fetched / bandwidth
    if d.x_copy < 8 then fetch = fetch + together * s.tp * s.cb / (32 * d.x_copy) * SINGLE end
    local chunk = max(multiply, fetch, alone) + MIX * min(multiply, fetch)
    local store
    local parts = d.parts * (d.transposed and 2 or 1)   -- of 512 outputs
    if s.sp == 1 then
        store = max(PART * parts, together * s.tk * s.tp * p.bytes / STORE) + together * d.threads // 32 * parts * PART_WARP
    else
        store = 4 * PART + s.tk * s.tp * 4 / STORE + s.sp * CLUSTER
    end
    local clocks = rounds * (d.my_chunks * chunk + store) + START
    if s.hold == 1 then clocks = clocks + min(d.chunks, ahead) * d.weights_bytes * together / bandwidth end
    local read = d.nhwc and pixels or p.n * p.p * p.w
    local run = (d.nhwc and min(s.tk, p.kg) or d.transposed and 16 or s.tp) * p.bytes
    local memory = 1e6 * (read * p.c + pixels * p.k + p.cg * p.k) * p.bytes / (DRAM_SHARE * t.bandwidth) * (1 + RUN_BYTES / run)
    local busy = 1e6 * clocks / t.clock
    if s.wg == 1 and p.bytes == 2 and d.chunks > 1 then busy = HALVES * busy end
    return LAUNCH_US + max(busy, memory) + 0.1 * min(busy, memory)
end

function pointwise.explain(p, s)
    return string.format("%d filters x %d pixels a block of %d warps, %d bytes of channels a round, %d stages%s", s.tk, s.tp,
                         s.wk * s.wp, s.cb, s.st, s.hold == 1 and "; weights stay in shared memory" or "")
end

function pointwise.launch(p, t, s)
    local d = shape(p, s, t)
    d.unroll_x, d.unroll_depth, d.unroll_store = "8", p.math == "f32" and "2" or "", d.piece > 1 and "2" or "4"
    local call <const> = launch.arg
    local strided = p.stride_h * p.stride_w > 1
    local tiles = s.ni > 0 and string.format("ceildiv(N, %d)", s.ni) or string.format("ceildiv(N * P * Q, %d)", s.tp)
    local integers = { "N * P * Q", "H * W", "P * Q" }
    if strided then integers[#integers + 1], integers[#integers + 2] = "W", "Q" end
    integers[#integers + 1] = tiles
    local requires = { { expr = string.format("N * H * W <= %d", MOST_PIXELS), why = "there must be at most 2^30 pixels" } }
    if s.pv > 1 then
        requires[#requires + 1] = { expr = string.format("P * Q %% %d == 0", s.pv), why = "its copies and stores are of several pixels of an image" }
    end
    if s.ni == 0 and s.pl == 1 then requires[#requires + 1] = { expr = "H * W == 1", why = "its images are of one pixel" } end
    if s.ni > 0 then
        requires[#requires + 1] = { expr = string.format("H * W <= %d && %d * P * Q <= %d", s.pl, s.ni, s.tp), why = "its tiles are whole images" }
    end
    return {
        template = "conv2d_pointwise.cu.in", env = { cuda = cuda, p = p, s = s, d = d }, align = 16, requires = requires, workspace = "0",
        launches = { {
            suffix = "", block = { d.threads, 1, 1 }, smem = tostring(d.smem),
            -- blocks of a cluster take one tile, others stay on their multiprocessor
            grid = { s.sp > 1 and string.format("%s * %d", tiles, d.tiles_k * s.sp) or
                     string.format("min(%d, %s) * %d", max(1, t.sms * d.resident // d.tiles_k), tiles, d.tiles_k), "1", "1" },
            cluster = s.sp > 1 and { s.sp, 1, 1 } or nil,
            args = launch.args(p, { call("input"), call("weights") }, integers),
        } },
    }
end

return pointwise
