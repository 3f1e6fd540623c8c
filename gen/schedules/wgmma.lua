-- wgmma.lua: dense convolution on Hopper's tensor cores, with one halo patch in shared memory for all filter taps.
--
-- An operand of wgmma in shared memory may begin at any multiple of its row: the hardware swizzles absolute addresses. So the
-- input patch of a tile of outputs, halo included, is laid out with one pixel a row of 128 (or 64) bytes, and each of the R*S
-- taps multiplies the same patch at another start address: the input is read once, and not R*S times.
--
-- Weights are A (64 filters a warpgroup), pixels are B: strips of 8 columns x tp rows, each a product of N = 8*tp columns, whose
-- groups of 8 pixels are one patch line apart. A launch before packs the weights in the order in which they are consumed.
-- A block stays on its multiprocessor and takes tile after tile: one thread fetches weights into a ring, three warps fill the next
-- patch, two warpgroups multiply.

local cost = require "cost"
local cuda = require "cuda"
local launch = require "launch"

local ceildiv <const>, roundup <const> = cuda.ceildiv, cuda.roundup
local min <const>, max <const>, ipairs <const> = math.min, math.max, ipairs

local wgmma = {}

wgmma.parameters = {
    { "wm", 1, 2 },      -- warpgroups along the filters, of two; the others are along the pixels
    { "tp", 1, 32 },     -- rows of a strip
    { "sq", 1, 32 },     -- strips of 8 columns of a block, of each image
    { "ni", 1, 32 },     -- images of a block
    { "cb", 32, 128 },   -- bytes of a row of channels: 64 or 128
    { "wide", 0, 1 },    -- 64-bit offsets within an image
}

-- Three TF32 products leave up to 3 * 2^-22 of each product out (the product of the rests, and what the rests lose themselves).
-- An FP32 FMA loop over this many products may err as much; over fewer it is more exact, and strict f32 promises no less.
local SHORTEST_EXACT_SUM <const> = 32
local CONSUMERS <const> = 2
local MOST_ACCUMULATORS <const> = 128   -- registers of a consumer thread

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

local function derive(p, s, t)
    local d = { tile_k = 64 * s.wm, row_bytes = s.cb, channels = s.cb // p.bytes, pixels = 8 * s.tp }
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
    local of_h, shift_h, of_w, shift_w
    d.phases_h, of_h, shift_h = phases(p.r, p.dil_h, p.stride_h)
    d.phases_w, of_w, shift_w = phases(p.s, p.dil_w, p.stride_w)
    d.patch_h, d.patch_w = s.tp + shift_h[p.r], 8 * s.sq + shift_w[p.s]
    d.row_of, d.column_of = {}, {}
    for r = 1, p.r do d.row_of[r] = (of_h[r] * #d.phases_w * d.patch_h + shift_h[r]) * d.patch_w end
    for c = 1, p.s do d.column_of[c] = of_w[c] * d.patch_h * d.patch_w + shift_w[c] end
    d.patch_rows = s.ni * #d.phases_h * #d.phases_w * d.patch_h * d.patch_w
    d.patch_bytes = roundup(d.patch_rows * s.cb, 1024)
    d.stage_bytes = d.parts * d.stage_k * s.cb
    local left = t.smem_block - 1024
    local patch = d.parts * d.patch_bytes
    d.patches = 2 * patch + 4 * d.stage_bytes <= left and 2 or 1
    d.weight_stages = min(8, (left - d.patches * patch) // d.stage_bytes)
    d.smem = d.patches * patch + d.weight_stages * d.stage_bytes + 16 * (d.patches + d.weight_stages)
    d.drain = d.patches == 1 and d.chunks > 1
    d.x_channels = roundup(p.c * p.bytes, 16) // p.bytes
    d.transpose = p.layout == "nchw" or d.x_channels ~= p.c
    d.producer_registers, d.consumer_registers = 104, 200
    return d
end

local shape <const> = launch.remember(derive)

function wgmma.check(p, t, s)
    local ok, reason = wgmma.applies(p, t)
    if not ok then return reason end
    if s.cb ~= 128 and (s.cb ~= 64 or p.math == "f32") then return string.format("cb is %d; 64 or 128, 128 for f32", s.cb) end
    local d = shape(p, s, t)
    if not d.turns and d.strips * s.wm % CONSUMERS ~= 0 then
        return string.format("%d strips for %d warpgroups", d.strips, CONSUMERS // s.wm)
    end
    if d.accumulators * d.parts > MOST_ACCUMULATORS then
        return string.format("%d accumulators of a thread; at most %d", d.accumulators, MOST_ACCUMULATORS // d.parts)
    end
    if d.weight_stages < 2 then return string.format("a patch of %d bytes leaves no room for weights", d.patch_bytes) end
    if d.patch_w * s.cb > 0x3fff * 16 then return "a patch line is longer than a descriptor's stride" end
    if s.wide == 0 and p.wide then
        return "an image of 2^31 elements or more needs wide=1"
    end
end

function wgmma.candidates(p, t)
    local list = {}
    local most = p.math == "f32" and MOST_ACCUMULATORS // 2 or MOST_ACCUMULATORS
    local wide = p.wide and 1 or 0
    for _, cb in ipairs(p.c * p.bytes <= 64 and p.math ~= "f32" and { 64 } or { 128 }) do
        for _, wm in ipairs(p.k > 64 and { 2, 1 } or { 1 }) do
            for _, tp in ipairs { 4, 7, 8, 14, 16, 28, 32 } do
                for _, sq in ipairs { 1, 2, 3, 4, 7, 8 } do
                    for _, ni in ipairs { 1, 2, 4, 8 } do
                        local strips = sq * ni * (p.c * p.bytes <= cb and p.math ~= "f32" and 2 or wm) / 2
                        if strips % 1 == 0 and strips * tp * 4 <= most and strips * tp * 4 >= 32 and
                           tp < p.p + 8 and sq * 8 < p.q + 8 and (ni == 1 or (tp >= p.p and sq * 8 >= p.q)) and
                           ni < 2 * p.n then
                            list[#list + 1] = { wm = wm, tp = tp, sq = sq, ni = ni, cb = cb, wide = wide }
                        end
                    end
                end
            end
        end
    end
    return list
end

local RATE <const> = { f16 = 3600, bf16 = 3600, tf32 = 1800, f32 = 600 } -- FLOP a clock and multiprocessor that the inner loop reaches

function wgmma.time(p, t, s)
    local d = shape(p, s, t)
    local tiles = d.tiles_k * ceildiv(p.n, s.ni) * ceildiv(p.p, s.tp) * ceildiv(p.q, 8 * s.sq)
    local flop = 2 * d.tile_k * d.strips * d.pixels * d.channels
    -- the operands of each product go through shared memory, at 128 bytes a clock
    local operands = s.wm * d.strips * (64 + d.pixels) * s.cb * (2 * d.parts - 1)
    local product = flop / RATE[p.math] + 0.15 * operands / 128
    local fetch = d.parts * d.tile_k * s.cb / 22                    -- bytes a clock from the L2 cache, with all multiprocessors at it
    local gather = d.patch_rows * (s.cb / 16) * 0.6 * d.parts + 1200
    local round = p.r * p.s * (max(product, fetch) + 40)
    local stores = d.tile_k * d.strips * d.pixels / 128 * 9 + 600
    if d.turns then
        round = max(round, gather, stores)
    else
        round = d.patches == 2 and max(round, gather) or round + gather
    end
    local rounds = ceildiv(tiles, t.sms)
    local clocks = rounds * (d.chunks * round + (d.turns and 100 or stores)) + gather + stores + 3000
    local bytes = (p.n * p.c * p.h * p.w + p.n * p.k * p.p * p.q) * p.bytes
    local us = 1e6 * max(clocks / t.clock, bytes / t.bandwidth) + 2.5
    if d.transpose then us = us + 2.0 + 2e6 * p.n * p.c * p.h * p.w * p.bytes / (0.8 * t.bandwidth) end
    return us + 2.5 + 1e6 * p.k * p.c * p.r * p.s * p.bytes / 1.0e12
end

function wgmma.explain(p, s)
    return string.format("%d filters x %d images x %d rows x %d columns a block, %d bytes of channels a round", 64 * s.wm, s.ni, s.tp,
                         8 * s.sq, s.cb)
end

function wgmma.launch(p, t, s)
    local d = shape(p, s, t)
    local call <const> = launch.arg
    local tiles_p, tiles_q = string.format("ceildiv(P, %d)", s.tp), string.format("ceildiv(Q, %d)", 8 * s.sq)
    local tiles = string.format("ceildiv(N, %d) * %s * %s * %d", s.ni, tiles_p, tiles_q, d.tiles_k)
    local packed = d.parts * d.tiles_k * d.tile_k * d.chunks * p.r * p.s * s.cb
    local args = launch.args(p, { d.transpose and call("workspace", "0") or call("input"), call("packed", "0") }, { "N", "H", "W", "P", "Q", tiles_p, tiles_q, tiles })
    local launches = { {
        suffix = "_pack", grid = { tostring(d.tiles_k * d.tile_k * d.chunks), "1", "1" }, block = { 128, 1, 1 },
        -- one filter's weights of a chunk, which are no more than a patch: each tap has its own pixel there
        smem = tostring(s.cb * p.r * p.s), args = { call("weights"), call("packed", "0") }, packs = true,
    } }
    if d.transpose then
        launches[2] = {
            suffix = "_transpose", block = { 256, 1, 1 }, smem = p.layout == "nchw" and "8192" or "0", overlap = true,
            grid = { string.format("N * ceildiv(H * W, 64) * %d", ceildiv(d.x_channels * p.bytes, 128)), "1", "1" },
            args = { call("input"), call("workspace", "0"), call("i32", "H * W") },
        }
    end
    launches[#launches + 1] = {
        suffix = "", grid = { string.format("min(%d, %s)", t.sms, tiles), "1", "1" }, block = { 128 + 128 * CONSUMERS, 1, 1 },
        smem = tostring(d.smem), args = args, overlap = true,
    }
    return {
        template = "conv2d_wgmma.cu.in", env = { cuda = cuda, p = p, s = s, d = d }, align = 16,
        requires = launch.requires(p, p.dil_h * p.r * 2 + 64 * p.stride_h, p.dil_w * p.s * 2 + 512 * p.stride_w, s.wide == 1),
        workspace = d.transpose and string.format("N * H * W * %d", d.x_channels * p.bytes) or "0", packed = tostring(packed),
        launches = launches,
    }
end

return wgmma
