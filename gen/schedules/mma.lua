-- mma.lua: dense convolution on the tensor cores of every architecture from sm_80 on, by mma.sync, ldmatrix and cp.async.
--
-- An implicit matrix product: filters times pixels, over channels and taps. The pixels of a tile are a run of all outputs in
-- the order of memory, across rows and images, so that small images leave no part of a tile empty; each tap's pixels are
-- gathered afresh, 16 bytes of channels at a time, zeros where the window hangs over the edge. That wants channels innermost,
-- of the weights, too: launches before bring them there, unless they are; where pixels are few, each block puts its weights in
-- order itself.
--
-- Where there are few tiles, the reduction is split among blocks: those of a cluster add their sums through each other's shared
-- memory; where there are no clusters, or the parts are too many, a second launch adds them. Either way in a fixed order.

local cost = require "cost"
local cuda = require "cuda"
local launch = require "launch"

local ceildiv <const> = cuda.ceildiv
local min <const>, max <const>, ipairs <const> = math.min, math.max, ipairs

local mma = {}

mma.parameters = {
    { "tk", 16, 256 },     -- filters of a block
    { "tp", 16, 256 },     -- pixels of a block
    { "wk", 1, 8 },        -- warps of a block along the filters
    { "wp", 1, 8 },        -- and along the pixels
    { "stages", 2, 8 },    -- slices of the reduction in shared memory
    { "split", 1, 64 },    -- blocks that share the reduction of a tile
    { "cluster", 0, 1 },   -- whether these are a cluster
    { "raw", 0, 1 },       -- whether blocks take the weights as they lie, and put them in order themselves
}

-- As for wgmma: over fewer products, FP32 FMAs are more exact than three TF32 products.
local SHORTEST_EXACT_SUM <const> = 32
local LEAST_CHANNELS <const> = 16      -- of a group, and filters: fewer leave most of a tile empty
local ROW <const> = 128                -- bytes of a slice of the reduction
local MOST_CLUSTER <const> = 8
local MOST_ACCUMULATORS <const> = 128  -- registers of a thread
local MOST_PIXELS <const> = 2147483647 - 256

function mma.applies(p, t)
    if p.math == "f32" and p.cg * p.r * p.s < SHORTEST_EXACT_SUM then
        return false, string.format("a sum of %d products is more exact by FMA", p.cg * p.r * p.s)
    end
    if p.groups > 1 and (p.cg < LEAST_CHANNELS or p.kg < LEAST_CHANNELS) then
        return false, string.format("groups of %d channels and %d filters leave most of a tile empty", p.cg, p.kg)
    end
    return true
end

local function has_clusters(t) return t.arch ~= "sm_80" and t.arch ~= "sm_86" and t.arch ~= "sm_89" end

-- Pieces of a band: a pixel's channels are read for all taps before the next ones are, so that they are still in the cache.
local function band_of(pieces)
    for band = 8, 16 do
        if pieces % band == 0 then return band end
    end
    return pieces
end

local PACK_BYTES <const> = 16 * 1024   -- that a block packs, about

-- Pieces of channels of a filter that a block packs.
local function unit_of(p, pieces, band)
    local each = p.r * p.s * 16
    if band * each <= PACK_BYTES then return band * min(pieces // band, PACK_BYTES // (band * each)) end
    return max(1, min(band, PACK_BYTES // each))
end

-- Whether a filter's weights are not yet in whole pieces of channels.
local function packs(p)
    return p.cg * p.bytes % 16 ~= 0 or p.r * p.s > 1 and p.weights_layout == "kcrs"
end

local function derive(p, s, t)
    local d = { elements = 16 // p.bytes }
    d.pieces = ceildiv(p.cg, d.elements)
    d.band = s.raw == 1 and d.pieces // s.split or band_of(d.pieces)
    d.slices = ceildiv(p.r * p.s * d.pieces, 8)
    d.my_slices = s.raw == 1 and ceildiv(p.r * p.s * d.band, 8) or ceildiv(d.slices, s.split)
    d.ragged = p.r * p.s * (s.raw == 1 and d.band or d.pieces) % 8 ~= 0   -- the last slice
    d.tiles_k = ceildiv(p.kg, s.tk)
    d.stage_bytes = (s.raw == 1 and s.tp or s.tk + s.tp) * ROW
    local weights = s.raw == 1 and s.tk * (d.my_slices * ROW + d.band * p.r * p.s * 16) or 0
    local rows, columns = s.tk, s.tp
    if p.layout == "nhwc" then rows, columns = columns, rows end
    d.smem = max(s.stages * d.stage_bytes + weights, rows * (columns + 8) * 4)
    d.threads = 32 * s.wk * s.wp
    d.accumulators = s.tk * s.tp // d.threads * (p.math == "f32" and 2 or 1)
    -- on a multiprocessor, for f32: left alone, the compiler may stop at 128 registers and spill a few
    d.least_blocks = t.registers_sm // (d.threads * (96 + d.accumulators))
    d.packs = s.raw == 0 and packs(p)
    d.transposes = p.layout == "nchw" or p.cg % d.elements ~= 0
    d.unit = unit_of(p, d.pieces, d.band)
    d.pack_smem = d.packs and p.weights_layout == "kcrs" and d.unit * p.r * p.s * 16 or 0
    d.overlaps = has_clusters(t)   -- the same architectures have both
    d.second = s.split > 1 and s.cluster == 0
    return d
end

local shape <const> = launch.remember(derive)

function mma.check(p, t, s)
    local ok, reason = mma.applies(p, t)
    if not ok then return reason end
    if s.raw == 1 and p.weights_layout == "krsc" then return "weights whose channels are innermost need no other order" end
    if s.raw == 1 and p.cg * p.bytes % (16 * s.split) ~= 0 then
        return string.format("%d channels are not shared by %d blocks in whole pieces of 16 bytes", p.cg, s.split)
    end
    local d = shape(p, s, t)
    if s.tk % (16 * s.wk) ~= 0 or s.tp % (16 * s.wp) ~= 0 then
        return string.format("%d x %d warps do not share %d filters x %d pixels in sixteens", s.wk, s.wp, s.tk, s.tp)
    end
    if d.threads > 1024 then return string.format("%d threads; at most 1024", d.threads) end
    if s.tk % (d.threads // 8) ~= 0 or s.tp % (d.threads // 8) ~= 0 then
        return string.format("%d threads do not fetch %d and %d rows evenly", d.threads, s.tk, s.tp)
    end
    if d.accumulators > MOST_ACCUMULATORS then
        return string.format("%d accumulators of a thread; at most %d", d.accumulators, MOST_ACCUMULATORS)
    end
    if max(d.smem, d.pack_smem) > t.smem_block then
        return string.format("%d bytes of shared memory; at most %d", max(d.smem, d.pack_smem), t.smem_block)
    end
    if s.raw == 0 and (s.split - 1) * d.my_slices >= d.slices then
        return string.format("%d slices are not split among %d", d.slices, s.split)
    end
    if s.cluster == 1 and (s.split == 1 or s.split > MOST_CLUSTER or not has_clusters(t)) then
        return string.format("no cluster of %d blocks on %s", s.split, t.arch)
    end
end

-- filters, pixels, warps along each
local tiles <const> = { { 128, 128, 2, 2 }, { 128, 128, 2, 4 }, { 64, 256, 1, 4 }, { 128, 64, 2, 2 }, { 64, 128, 2, 2 },
                        { 64, 64, 2, 2 }, { 32, 64, 1, 2 } }
local splits <const> = { 1, 2, 4, 5, 6, 8, 12, 16 }
local RAW_BYTES <const> = 96 * 1024    -- of a block's weights, twice: as they came and in order
local RAW_TILES <const> = 32           -- along the pixels: each puts all weights in order again

-- Slices in flight of so many blocks that are on a multiprocessor together; of few slices, no more than there are.
local function stages_of(t, s, slices, together)
    local room = min(t.smem_sm // together - t.smem_reserved, t.smem_block) // (((s.raw == 1 and 0 or s.tk) + s.tp) * ROW)
    return max(2, min(room, 6, slices + 1))
end

-- Adds the tile with the reduction split, and, where that can be and pays, with weights as they lie.
local function add(list, p, t, tile, split, tiles_p, blocks)
    local pieces = ceildiv(p.cg * p.bytes, 16)
    local slices = ceildiv(p.r * p.s * pieces, 8)
    local cluster = split > 1 and split <= MOST_CLUSTER and has_clusters(t) and 1 or 0
    local function variant(raw, my_slices, together)
        local s = { tk = tile[1], tp = tile[2], wk = tile[3], wp = tile[4], split = split, cluster = cluster, raw = raw }
        s.stages = stages_of(t, s, my_slices, together)
        list[#list + 1] = s
    end
    if split <= slices and (split - 1) * ceildiv(slices, split) < slices then
        variant(0, ceildiv(slices, split), 2)
        -- small tiles: a third block may serve better than one more stage
        if blocks > 2 * t.sms and tile[1] * tile[2] <= 8192 then variant(0, ceildiv(slices, split), 3) end
    end
    if p.r * p.s > 1 and p.weights_layout == "kcrs" and p.cg * p.bytes % (16 * split) == 0 and tiles_p <= RAW_TILES and
       tile[1] * 2 * p.r * p.s * pieces * 16 <= RAW_BYTES * split then
        variant(1, ceildiv(p.r * p.s * pieces // split, 8), 2)
    end
end

function mma.candidates(p, t)
    local list = {}
    local pixels = p.n * p.p * p.q
    if pixels > MOST_PIXELS then return list end
    local most = p.math == "f32" and MOST_ACCUMULATORS // 2 or MOST_ACCUMULATORS
    for _, tile in ipairs(tiles) do
        local tk, tp = tile[1], tile[2]
        local tiles_p = ceildiv(pixels, tp)
        local blocks = ceildiv(p.kg, tk) * p.groups * tiles_p
        if tk * tp // (32 * tile[3] * tile[4]) <= most and tk < 2 * p.kg + 32 and tp < 2 * pixels + 64 then
            -- neither many more blocks than there are multiprocessors, nor far fewer where there can be more
            local before = #list
            for i = #splits, 1, -1 do
                local split = splits[i]
                if 3 * blocks * split < t.sms and #list > before then break end
                if split == 1 or blocks * split <= 3 * t.sms then add(list, p, t, tile, split, tiles_p, blocks * split) end
            end
        end
    end
    return list
end

-- ---- Predicted time: constants are fitted to 1,600 measurements on an H200, with an error of 7 % (root mean square) ----

local SLOWER <const> = { f16 = 1, bf16 = 1, tf32 = 2, f32 = 6 }   -- than products of 16-bit numbers
local FETCH <const> = 1050             -- clocks from a fetch to its product
local BLOCK <const> = 2360             -- clocks of a block before its first product and after its last
local TILE <const> = 10.7              -- and for each element of the tile that a thread holds
local ROUND <const> = 3                -- issue slots that it takes to round a float to TF32
local CLUSTER <const> = 1040           -- clocks that a cluster's blocks wait for each other
local ORDER <const> = 770              -- clocks for each piece of raw weights that a thread puts in order
local CALL_US <const> = 6.1            -- of a call that does next to nothing, as the bench measures it
local PREPARE_US <const>, SUM_US <const> = 3.0, 2.3   -- of one more launch
local PACK_BANDWIDTH <const> = 0.39    -- of the device memory's, counting what is read

-- Instructions that a warp issues for a slice.
local function issued(p, s, d)
    local filters, pixels = s.tk // s.wk, s.tp // s.wp
    local products = filters * pixels // 128
    local fetches = 80 * d.stage_bytes // (ROW * d.threads) + 60
    if p.math == "tf32" then   -- who brings operands in order rounds them, too; others are rounded here
        fetches = fetches + ROUND * ((d.transposes and 0 or pixels) + ((d.packs or s.raw == 1) and 0 or filters))
    end
    if p.math ~= "f32" then return 4 * products + (filters + pixels) // 4 + fetches end
    return 12 * products + 5 * (filters + pixels) + filters * pixels // 16 + fetches
end

-- Clocks in which so many blocks of a multiprocessor do a slice each.
local function slice_clocks(p, t, s, d, together)
    local product = 2 * s.tk * s.tp * (ROW // p.bytes) / t.mma * SLOWER[p.math]
    local shared = d.stage_bytes + ROW * (s.tk * s.wp + s.tp * s.wk)   -- bytes written and read
    shared = 0.82 * shared / 128
    local issue = 1.165 * issued(p, s, d) * d.threads / 128
    local longest, all = max(product, shared, issue), product + shared + issue
    local busy = together * (0.87 * longest + 0.13 * all) * (1 + 0.63 * 128 / (together * d.threads))
    return max(busy, FETCH / (s.stages - 1))
end

-- Clocks of blocks that are on a multiprocessor together.
local function round_clocks(p, t, s, d, together)
    local clocks = d.my_slices * slice_clocks(p, t, s, d, together) + BLOCK + together * TILE * s.tk * s.tp / d.threads
    if s.cluster == 1 then clocks = clocks + CLUSTER end
    if s.raw == 1 then clocks = clocks + together * ORDER * s.tk * d.my_slices / d.threads end
    return clocks
end

local function prepare_us(p, t, d)
    local us = PREPARE_US
    if d.packs then us = us + 1e6 * p.k * p.cg * p.r * p.s * p.bytes / (PACK_BANDWIDTH * t.bandwidth) end
    if d.transposes then us = us + 2e6 * p.n * p.c * p.h * p.w * p.bytes / (0.6 * t.bandwidth) end
    return us
end

-- Tensor cores that never wait, or memory.
function mma.least_us(p, t)
    local pixels = p.n * p.p * p.q
    local clocks = 2 * pixels * p.k * p.cg * p.r * p.s / (t.mma * t.sms) * SLOWER[p.math]
    local bytes = (p.n * p.c * p.h * p.w + p.k * pixels) * p.bytes
    return CALL_US + 1e6 * max(clocks / t.clock, bytes / t.bandwidth)
end

local MEMORY <const> = 0.8   -- of the bandwidth, by what asks for it piece by piece

function mma.time(p, t, s)
    local d = shape(p, s, t)
    local pixels = p.n * p.p * p.q
    local blocks = d.tiles_k * p.groups * ceildiv(pixels, s.tp) * s.split
    local registers = min(255, 80 + 1.2 * d.accumulators)
    local resident = max(1, min(t.smem_sm // (d.smem + t.smem_reserved), t.warps_sm * 32 // d.threads,
                                t.registers_sm // (registers * d.threads)))
    local multiprocessors = s.cluster == 1 and cost.filled(t, s.split) or t.sms
    local each = ceildiv(blocks, multiprocessors)
    local clocks = each // resident * round_clocks(p, t, s, d, resident)
    if each % resident > 0 then clocks = clocks + round_clocks(p, t, s, d, each % resident) end
    local bytes = (p.n * p.c * p.h * p.w + p.k * pixels) * p.bytes
    local us = CALL_US + (p.math == "f32" and 1.08e6 or 1e6) * max(clocks / t.clock, bytes / (MEMORY * t.bandwidth))
    if d.packs or d.transposes then us = us + prepare_us(p, t, d) end
    if d.second then us = us + SUM_US + 8e6 * blocks * s.tk * s.tp / t.l2_bandwidth end
    return us
end

function mma.explain(p, s)
    local text = string.format("%d filters x %d pixels a block of %d warps, %d stages", s.tk, s.tp, s.wk * s.wp, s.stages)
    if s.split > 1 then
        text = text .. string.format("; the reduction split among %d blocks %s", s.split,
                                     s.cluster == 1 and "of a cluster" or "and summed by a second launch")
    end
    return s.raw == 1 and text .. "; weights as they lie" or text
end

-- The launches that bring the operands into order, as far as they are not.
local function prepare(p, d)
    local call <const> = launch.arg
    local launches = {}
    if d.packs then
        launches[1] = {
            suffix = "_pack", grid = { tostring(p.k * ceildiv(d.pieces, d.unit)), "1", "1" }, block = { 256, 1, 1 },
            smem = tostring(d.pack_smem), args = { call("weights"), call("packed", "0") }, packs = true,
        }
    end
    if d.transposes then
        launches[#launches + 1] = {
            suffix = "_transpose", block = { 256, 1, 1 }, smem = p.layout == "nchw" and "8192" or "0",
            grid = { string.format("N * ceildiv(H * W, 64) * %d", ceildiv(p.groups * d.pieces, 8)), "1", "1" },
            args = { call("input"), call("workspace", "0"), call("i32", "H * W") }, overlap = d.packs and d.overlaps or nil,
        }
    end
    return launches
end

function mma.launch(p, t, s)
    local d = shape(p, s, t)
    local call <const> = launch.arg
    local transposed = d.transposes and string.format("N * H * W * %d", p.groups * d.pieces * 16) or "0"
    local tiles = string.format("%d * ceildiv(N * P * Q, %d)", d.tiles_k * p.groups, s.tp)
    local sizes <const> = { "H", "W", "P", "Q", "N * P * Q" }
    local operands = { d.transposes and call("workspace", "0") or call("input"),
                       d.packs and call("packed", "0") or call("weights") }
    local partial = call("workspace", transposed)
    local args
    if d.second then
        args = { operands[1], operands[2], partial }
        for _, expr in ipairs(sizes) do args[#args + 1] = call("i32", expr) end
    else
        args = launch.args(p, operands, sizes)
    end
    local launches = prepare(p, d)
    launches[#launches + 1] = {
        suffix = "", grid = { string.format("%s * %d", tiles, s.split), "1", "1" }, block = { d.threads, 1, 1 },
        cluster = s.cluster == 1 and { s.split, 1, 1 } or nil, smem = tostring(d.smem), args = args,
        overlap = #launches > 0 and d.overlaps or nil,
    }
    if d.second then
        launches[#launches + 1] = {
            suffix = "_sum", grid = { string.format("%s * %d", tiles, ceildiv(s.tk * s.tp // 4, 256)), "1", "1" },
            block = { 256, 1, 1 }, smem = "0", args = launch.args(p, { partial }, { "N * P * Q", "P * Q" }),
            overlap = d.overlaps or nil,
        }
    end
    local requires = launch.requires(p, p.dil_h * p.r * 2 + 64 * p.stride_h, p.dil_w * p.s * 2 + 512 * p.stride_w, true)
    requires[2] = { expr = string.format("N * P * Q <= %d", MOST_PIXELS), why = "pixels are counted in 32 bits" }
    if d.transposes then
        requires[3] = { expr = string.format("H * W <= %d", MOST_PIXELS), why = "pixels are counted in 32 bits" }
    end
    return {
        template = "conv2d_mma.cu.in", env = { cuda = cuda, p = p, s = s, d = d }, align = 16, requires = requires,
        workspace = d.second and string.format("%s + %s * %d", transposed, tiles, s.split * s.tk * s.tp * 4) or transposed,
        packed = d.packs and tostring(p.k * p.r * p.s * d.pieces * 16) or nil, launches = launches,
        parts = #launches > 1 and 2 or nil,
    }
end

return mma
