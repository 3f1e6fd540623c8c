-- few_channels.lua: convolutions of 1 to 16 input channels on Hopper's tensor cores, without a gather.
--
-- The input patch of a tile of outputs lies in shared memory with its few channels innermost, filled up to `channels` a pixel.
-- Then the window of an output column is, for each filter row, one run of S * channels numbers, and the next column's window
-- is the same run `cell` bytes further on: the patch is the matrix that im2col would write, with rows that overlap. If a cell
-- has 16, 32, 64 or 128 bytes, wgmma's descriptors can express that: 64 output columns are A, the weights, which stay in
-- shared memory, are B, and the reduction takes steps of 32 bytes through the window. What a step covers beside the filter's
-- taps is multiplied by zero weights: an infinity or NaN there makes NaN of the neighbours whose windows nearly touch it.
--
-- A block stays on its multiprocessor and takes tile after tile: a warpgroup fills the next patch, the others multiply 64 * mi
-- columns of a row each, put them in order in shared memory and store whole lines.

local cuda = require "cuda"
local launch = require "launch"

local ceildiv <const>, roundup <const> = cuda.ceildiv, cuda.roundup
local min <const>, max <const>, ipairs <const> = math.min, math.max, ipairs

local few_channels = {}

few_channels.parameters = {
    { "tk", 8, 256 },    -- filters of a block: a multiple of 8
    { "tp", 1, 64 },     -- rows of a tile
    { "tq", 64, 512 },   -- columns of a tile: a multiple of 64 * mi
    { "mi", 1, 4 },      -- products of 64 columns that a warpgroup has at a time
    { "wg", 2, 3 },      -- warpgroups that multiply
}

local MOST_CHANNELS <const> = 16
local STEP <const> = 32              -- bytes of the reduction that one wgmma takes
local SHORTEST_EXACT_SUM <const> = 32   -- as in wgmma.lua: three TF32 products stand for one FP32 product in longer sums only
local MOST_PATCHES <const> = 4
local ROW_STAGES <const> = 2
local MOST_UNROLLED <const> = 12     -- steps
-- Registers of a thread that fills patches, and of one that multiplies, by the number of warpgroups that multiply.
local PRODUCER_REGISTERS <const> = { [2] = 104, [3] = 80 }
local CONSUMER_REGISTERS <const> = { [2] = 200, [3] = 144 }
local OTHER_REGISTERS <const> = 56   -- of a thread that multiplies, beside the sums

-- How pixels lie in a patch line: `channels` a pixel, `phases` lines of every phases-th group of pixels, so that the pixels
-- of a line between two output columns, its cell, have a size that wgmma can step by.
local function cells(p)
    for _, channels in ipairs { 4, 8, 16 } do
        for phases = 1, channels >= p.c and p.stride_w or 0 do
            local cell = p.stride_w / phases * channels * p.bytes
            if cell == 16 or cell == 32 or cell == 64 or cell == 128 then return channels, phases, math.tointeger(cell) end
        end
    end
end

-- The reduction along a filter row, whatever the parameters: where each step begins, as { phase, bytes behind the window's
-- begin }, and for each tap where its first channel is, in bytes counted through all steps. A step begins at a multiple of
-- what wgmma can move the start of a window by, and covers as many taps as it can.
local function reduction(p)
    local channels, phases, cell = cells(p)
    local d = { channels = channels, phases = phases, cell = cell, list = {}, where = {}, reach = 0 }
    local group = p.stride_w // phases       -- pixels of a cell
    local pixel = channels * p.bytes
    local align = cell == 16 and 16 or STEP
    local taps, list = {}, d.list
    for s = 0, p.s - 1 do
        local rest = s * p.dil_w % p.stride_w
        taps[s + 1] = { s = s, phase = rest // group, at = s * p.dil_w // p.stride_w * cell + rest % group * pixel }
    end
    table.sort(taps, function(a, b)
        if a.phase ~= b.phase then return a.phase < b.phase end
        return a.at < b.at
    end)
    for _, tap in ipairs(taps) do
        local last = list[#list]
        if not last or last.phase ~= tap.phase or tap.at + min(pixel, STEP) > last.at + STEP then
            last = { phase = tap.phase, at = tap.at // align * align }
            list[#list + 1] = last
        end
        d.where[tap.s + 1] = (#list - 1) * STEP + tap.at - last.at
        for at = last.at + STEP, tap.at + pixel - 1, STEP do list[#list + 1] = { phase = tap.phase, at = at } end
        d.reach = max(d.reach, list[#list].at + STEP)    -- bytes from a window's begin to the end of its last step
    end
    -- Steps are unrolled; many of them in several rounds of the same number, the last of which may begin with steps that
    -- are there for the number only.
    d.rounds = ceildiv(#list, MOST_UNROLLED)
    d.round_steps = ceildiv(#list, d.rounds)
    while #list < d.rounds * d.round_steps do list[#list + 1] = { phase = 0, at = 0 } end
    return d
end

local reductions <const> = setmetatable({}, { __mode = "k" })   -- of each problem

local function reduction_of(p)
    if not reductions[p] then reductions[p] = reduction(p) end
    return reductions[p]
end

-- Shared memory of 8 filters and one row of 64 columns.
local function least_bytes(p)
    local row = reduction_of(p)
    local patch = ((p.r - 1) * p.dil_h + 1) * row.phases * (63 + ceildiv(row.reach, row.cell)) * row.cell
    return (p.math == "f32" and 2 or 1) * (patch + p.r * #row.list * 8 * STEP) + 2 * 64 * 8 * p.bytes
end

function few_channels.applies(p, t)
    if t.arch ~= "sm_90a" then return false, "wgmma is an instruction of sm_90a" end
    if p.groups ~= 1 then return false, "it multiplies all channels; groups would be mostly zeros" end
    if p.c > MOST_CHANNELS then
        return false, string.format("%d channels; it is for %d at most", p.c, MOST_CHANNELS)
    end
    if p.math == "f32" and p.c * p.r * p.s < SHORTEST_EXACT_SUM then
        return false, string.format("a sum of %d products is more exact by FMA", p.c * p.r * p.s)
    end
    if p.wide then return false, "an image of 2^31 elements or more needs 64-bit offsets" end
    local least = least_bytes(p)
    if least > t.smem_block - 1024 then
        return false, string.format("its smallest tile takes %d bytes of shared memory; a block has %d", least, t.smem_block - 1024)
    end
    return true
end

-- Bytes of a staged run, the columns of a filter or the filters of a column, with what keeps the banks of neighbouring runs
-- apart; and of all runs of a warpgroup.
local function staging(p, filters, columns)
    if p.layout == "nchw" then
        local run = columns * p.bytes + 16
        return run, filters * run
    end
    local run = roundup(filters * 4 + 96, 128) - 96
    if p.bytes == 2 then run = filters % 16 == 0 and filters * 2 + 16 or filters * 2 end
    return run, columns * run
end

local function derive(p, s, t)
    local row = reduction_of(p)
    local d = { parts = p.math == "f32" and 2 or 1, type = p.math == "f32" and "tf32" or p.math, channels = row.channels,
                phases = row.phases, cell = row.cell, steps = #row.list, where = row.where, rounds = row.rounds,
                round_steps = row.round_steps }
    d.tiles_k = ceildiv(p.k, s.tk)
    d.cells = s.tq - 1 + ceildiv(row.reach, d.cell)
    d.line_bytes = d.phases * d.cells * d.cell
    d.lines = (s.tp - 1) * p.stride_h + (p.r - 1) * p.dil_h + 1
    d.patch_bytes = roundup(d.lines * d.line_bytes, 1024)
    d.weight_bytes = p.r * d.steps * s.tk * STEP
    d.columns = 64 * s.mi
    -- How x comes to a patch: asynchronous copies of 4 bytes at least, or whole rows, from which threads pick 16-bit numbers.
    local pixel = p.c * p.bytes
    d.copy_bytes = p.layout == "nchw" and p.bytes or pixel % 16 == 0 and 16 or pixel % 8 == 0 and 8 or pixel % 4 == 0 and 4 or 2
    d.copies = pixel // d.copy_bytes
    d.rows, d.row_bytes, d.row_stages = 0, 0, ROW_STAGES
    if d.copy_bytes == 2 then
        local elements = d.line_bytes // (d.channels * 2)
        d.rows, d.row_bytes = d.lines * p.c, roundup(elements * 2, 16) + 16
        if p.layout == "nhwc" then d.rows, d.row_bytes = d.lines, roundup(elements * pixel, 16) + 16 end
    end
    -- All filters are staged at a time, or a part of them if only that leaves room for two patches.
    local fixed = d.parts * d.weight_bytes + ROW_STAGES * d.rows * d.row_bytes + 4 * s.tk + 16 * MOST_PATCHES + 8 * ROW_STAGES
    d.patches = -1
    for parts = 1, s.tk // 8 do
        if d.patches < 2 and s.tk % (8 * parts) == 0 then
            d.stage_k = s.tk // parts
            d.run_bytes, d.stage_bytes = staging(p, d.stage_k, d.columns)
            d.fixed_bytes = fixed + s.wg * d.stage_bytes
            d.patches = min(d.rows > 0 and 2 or MOST_PATCHES, (t.smem_block - 1024 - d.fixed_bytes) // (d.parts * d.patch_bytes))
        end
    end
    d.ahead = max(0, min(2, d.patches - 2))   -- one patch is multiplied and one waits for it
    d.smem = d.fixed_bytes + d.patches * d.parts * d.patch_bytes
    d.accumulators = s.mi * s.tk // 2
    d.producer_registers, d.consumer_registers = PRODUCER_REGISTERS[s.wg], CONSUMER_REGISTERS[s.wg]
    return d
end

local shape <const> = launch.remember(derive)

function few_channels.check(p, t, s)
    local ok, reason = few_channels.applies(p, t)
    if not ok then return reason end
    if s.tk % 8 ~= 0 then return string.format("tk is %d; a multiple of 8", s.tk) end
    if s.tq % (64 * s.mi) ~= 0 then return string.format("tq is %d; a multiple of %d", s.tq, 64 * s.mi) end
    local d = shape(p, s, t)
    local most = d.consumer_registers - OTHER_REGISTERS
    if d.accumulators * d.parts > most then
        return string.format("%d sums of a thread; at most %d", d.accumulators * d.parts, most)
    end
    if d.patches < 1 then
        return string.format("a patch of %d bytes and %d bytes of weights and stores do not fit", d.parts * d.patch_bytes, d.fixed_bytes)
    end
    if p.math == "f32" and d.patches < 2 then return "with room for a single patch, strict f32 is slower than by FMA" end
    if d.line_bytes * p.stride_h > 0x3fff * 16 then return "a patch line is longer than shared memory" end
end

function few_channels.candidates(p, t)
    local list = {}
    local sums = p.math == "f32" and 2 or 1     -- for each filter and two columns
    -- as many filters as fit, and half as many for more blocks
    local tk, sizes = roundup(p.k, 8), 0
    while sizes < 2 do
        local least = { tk = tk, tp = 1, tq = 64, mi = 1, wg = 2 }
        if not few_channels.check(p, t, least) then
            sizes = sizes + 1
            for _, tp in ipairs { 1, 2, 3, 4 } do
                for _, tq in ipairs { 64, 128, 256 } do
                    for mi = 1, tq > 64 and 2 or 1 do
                        if (tp == 1 or tp < 2 * p.p) and (tq == 64 or tq < p.q + 64) then
                            local wg = mi == 1 and tk // 2 * sums <= CONSUMER_REGISTERS[3] - OTHER_REGISTERS and 3 or 2
                            list[#list + 1] = { tk = tk, tp = tp, tq = tq, mi = mi, wg = wg }
                        end
                    end
                end
            end
        end
        if tk == 8 then break end
        tk = roundup(tk // 2, 8)
    end
    return list
end

-- Clocks of a multiprocessor, fitted to 108 measurements on an H200. They add up: patches, operands and what is staged all go
-- through shared memory.
local PIECE_CLOCKS <const>, COPY_CLOCKS <const> = 5.7, 6.2   -- of 32 pixels of a patch line, and of each of their copies
local PRODUCT_CLOCKS <const> = 0.89                          -- for a clock of the tensor cores or of their operands
local STAGE_CLOCKS <const> = { nchw = { 7.1, 7.1 }, nhwc = { 8.4, 6.6 } }   -- of 128 bytes that are staged and stored, for 1 and more products
local RUN_CLOCKS <const> = 5.5                               -- of each run of columns of a filter
local ROUND_CLOCKS <const>, ALONE <const> = 8, 1.35   -- of a piece that is rounded to TF32; for fewer units of a tile than warpgroups
local TILE_CLOCKS <const>, FIRST_CLOCKS <const> = 10, 13200  -- of a tile, and until the first product, with the weights

function few_channels.time(p, t, s)
    local d = shape(p, s, t)
    local tiles = p.n * ceildiv(p.p, s.tp) * ceildiv(p.q, s.tq)
    local units = s.tp * ceildiv(min(s.tq, p.q), d.columns)
    if d.patches < 2 then units = roundup(units, s.wg) end    -- nothing to do for a warpgroup that is done before the others
    local multiply = s.mi * p.r * d.steps * (2 * d.parts - 1) * max(s.tk / 2, 16 + s.tk / 4)
    local store = STAGE_CLOCKS[p.layout][min(s.mi, 2)] * d.columns * s.tk * p.bytes / 128
    if p.layout == "nchw" then store = store + RUN_CLOCKS * s.tk end
    local pieces = d.parts * d.lines * ceildiv(d.line_bytes // (d.channels * p.bytes), 32)
    local fill = PIECE_CLOCKS + COPY_CLOCKS * (d.rows > 0 and p.c or d.copies)
    local rounds = ceildiv(tiles, max(1, t.sms // d.tiles_k))
    if p.math == "tf32" then
        fill = fill + ROUND_CLOCKS
        if units < s.wg then fill = fill * ALONE end
    end
    local clocks = rounds * (units * (PRODUCT_CLOCKS * multiply + store) + pieces * fill + TILE_CLOCKS) + FIRST_CLOCKS
    local bytes = (p.n * p.c * p.h * p.w + p.n * p.k * p.p * p.q) * p.bytes
    return 2.5 + 1e6 * max(clocks / t.clock, bytes / t.bandwidth)
end

function few_channels.explain(p, s)
    return string.format("%d filters x %d rows x %d columns a tile, %d columns a product, %d warpgroups that multiply", s.tk, s.tp,
                         s.tq, 64 * s.mi, s.wg)
end

function few_channels.launch(p, t, s)
    local d = shape(p, s, t)
    local call <const> = launch.arg
    local tiles_p, tiles_q = string.format("ceildiv(P, %d)", s.tp), string.format("ceildiv(Q, %d)", s.tq)
    local tiles = string.format("N * %s * %s", tiles_p, tiles_q)
    local integers = { "H", "W", "P", "Q", tiles_p, tiles_q, tiles }
    if d.rows > 0 then table.insert(integers, 1, "N") end
    local args = launch.args(p, { call("input"), call("weights") }, integers)
    local offsets = {}
    for i, step in ipairs(reduction_of(p).list) do offsets[i] = step.phase * d.cells * d.cell + step.at end
    return {
        template = "conv2d_few_channels.cu.in", env = { cuda = cuda, p = p, s = s, d = d, offsets = offsets }, align = 16,
        requires = launch.requires(p, p.dil_h * p.r + 64 * p.stride_h, (d.cells + 32) * p.stride_w, false),
        workspace = "0",
        launches = { {
            suffix = "", grid = { string.format("min(%d, %s) * %d", max(1, t.sms // d.tiles_k), tiles, d.tiles_k), "1", "1" },
            block = { 128 + 128 * s.wg, 1, 1 }, smem = tostring(d.smem), args = args,
        } },
    }
end

return few_channels
