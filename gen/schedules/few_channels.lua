-- few_channels.lua: convolutions of 1 to 16 input channels on Hopper's tensor cores, without a gather.
--
-- The input patch of a tile of outputs lies in shared memory with its few channels innermost, filled up to `channels` a pixel.
-- Then the window of an output column is, for each filter row, one run of S * channels numbers, and the next column's window
-- is the same run `cell` bytes further on: the patch is the matrix that im2col would write, with rows that overlap. If a cell
-- has 16, 32, 64 or 128 bytes, wgmma's descriptors can express that: 64 output columns are A, the weights, which stay in
-- shared memory, are B, and the reduction takes steps of 32 bytes through the window. What a step covers beside the filter's
-- taps is multiplied by zero weights: an infinity or NaN there makes NaN of the neighbours whose windows nearly touch it.
--
-- A block stays on its multiprocessor and takes tile after tile, row by row. The patch is a ring of slots of stride_h lines: the
-- next row of outputs needs one slot more, which a warpgroup fills ahead, through registers. The others take turns: one multiplies
-- 64 * mi columns of a row while the rest put theirs in order in shared memory and store whole lines. In NCHW the weights may be A
-- and nq columns B: then a thread's sums lie along rows of y.

local cuda = require "cuda"
local launch = require "launch"

local ceildiv <const>, roundup <const> = cuda.ceildiv, cuda.roundup
local min <const>, max <const>, ipairs <const> = math.min, math.max, ipairs

local few_channels = {}

local MOST_CHANNELS <const> = 16
local STEP <const> = 32              -- bytes of the reduction that one wgmma takes
local SHORTEST_EXACT_SUM <const> = 32   -- as in wgmma.lua: three TF32 products stand for one FP32 product in longer sums only
local MOST_SLOTS_AHEAD <const> = 4   -- slots beyond the windows of the rows that are multiplied
local MOST_UNROLLED <const>, MOST_EXACT <const> = 12, 3   -- steps of a round
local MOST_ROWS <const>, MOST_TORN <const> = 64, 16   -- of a tile; if its neighbours write parts of the same 32 bytes
local MOST_SLOTS <const> = 32        -- of a ring
local RESIDUAL_SUMS <const> = 16     -- for which there is no room if a residual is added
local MOST_BATCHES <const> = 3       -- of x that are under way at a time
local MOST_PAIRED <const> = 36       -- words under way of pairs of columns, which may have to be put together
-- Registers of a thread that fills slots, those of them for what is under way, and of a thread that multiplies, and how many sums
-- that has, by the numbers of warpgroups that multiply and that fill slots.
local REGISTERS <const> = {
    [2] = { { fill = 104, taken = 48, multiply = 200, sums = 128 }, { fill = 88, taken = 40, multiply = 168, sums = 88 } },
    [3] = { { fill = 80, taken = 36, multiply = 144, sums = 88 }, { fill = 56, taken = 18, multiply = 120, sums = 56 } },
}

few_channels.parameters = {
    { "tk", 8, 256 },    -- filters of a block: a multiple of 8
    { "tp", 1, MOST_ROWS },     -- rows of a tile
    { "tq", 8, 512 },    -- columns of a tile: a multiple of 64 * mi
    { "mi", 1, 4 },      -- products of 64 columns that a warpgroup has at a time
    { "wg", 2, 3 },      -- warpgroups that multiply
    { "lg", 1, 2 },      -- warpgroups that fill slots
    { "nq", 0, 256 },    -- if not 0, a product is of 64 filters and nq columns, tk a multiple of 64 * mi and tq one of nq
}

-- Whether the numbers of four pixels, which a row of windows moves by, fill pieces of 16 bytes without more channels.
local function packs(p) return p.bytes == 4 and p.stride_w == 4 and p.c < 4 end

-- How pixels lie in a patch line: `channels` a pixel, `phases` lines of every phases-th group of pixels, so that the pixels
-- of a line between two output columns, its cell, have a size that wgmma can step by.
local function cells(p)
    if packs(p) then return p.c, p.c, 16 end   -- each phase is one of a cell's pieces of 16 bytes
    for _, channels in ipairs { 4, 8, 16 } do
        for phases = 1, channels >= p.c and p.stride_w or 0 do
            local cell = p.stride_w / phases * channels * p.bytes
            if cell == 16 or cell == 32 or cell == 64 or cell == 128 then return channels, phases, math.tointeger(cell) end
        end
    end
end

-- Columns of a patch left of the first window: a patch of 16-bit numbers begins with an even column of x, one that packs with
-- a multiple of 4, so that pairs and fours of columns are aligned in rows of such length.
local function lead(p) return packs(p) and -p.pad_left % 4 or p.bytes == 2 and p.pad_left % 2 or 0 end

-- The steps of windows whose numbers are packed: two pieces of 16 bytes each, the second at any distance behind the first.
local function packed_reduction(p)
    local d = { channels = p.c, phases = p.c, cell = 16, list = {}, where = {}, reach = 0 }
    local pieces, piece_of = {}, {}
    for s = 0, p.s - 1 do
        for c = 0, p.c - 1 do
            local number = (s * p.dil_w + lead(p)) * p.c + c
            local phase, at = number // 4 % p.c, number // 4 // p.c * 16
            local key = phase * 65536 + at
            if not piece_of[key] then
                piece_of[key] = { phase = phase, at = at, number = number }
                pieces[#pieces + 1] = piece_of[key]
            end
        end
    end
    table.sort(pieces, function(a, b)
        if a.phase ~= b.phase then return a.phase < b.phase end
        return a.at < b.at
    end)
    for i, piece in ipairs(pieces) do
        piece.place = (i - 1) * 16
        if i % 2 == 1 then
            local next = pieces[i + 1] or { phase = piece.phase, at = piece.at + 16 }
            d.list[#d.list + 1] = { phase = piece.phase, at = piece.at, next = next }
            d.reach = max(d.reach, next.at + 16)
        end
        d.reach = max(d.reach, piece.at + 16)
    end
    for s = 0, p.s - 1 do
        for c = 0, p.c - 1 do
            local number = (s * p.dil_w + lead(p)) * p.c + c
            d.where[#d.where + 1] = piece_of[number // 4 % p.c * 65536 + number // 4 // p.c * 16].place + number % 4 * 4
        end
    end
    return d
end

-- The steps of windows of whole pixels. A step begins at a multiple of what wgmma can move the start of a window by, and covers
-- as many taps as it can.
local function pixel_reduction(p)
    local channels, phases, cell = cells(p)
    local d = { channels = channels, phases = phases, cell = cell, list = {}, where = {}, reach = 0 }
    local group = p.stride_w // phases       -- pixels of a cell
    local pixel = channels * p.bytes
    local align = cell == 16 and 16 or STEP
    local taps, list = {}, d.list
    for s = 0, p.s - 1 do
        local column = s * p.dil_w + lead(p)
        local rest = column % p.stride_w
        taps[s + 1] = { s = s, phase = rest // group, at = column // p.stride_w * cell + rest % group * pixel }
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
        for c = 0, p.c - 1 do d.where[tap.s * p.c + c + 1] = (#list - 1) * STEP + tap.at - last.at + c * p.bytes end
        for at = last.at + STEP, tap.at + pixel - 1, STEP do list[#list + 1] = { phase = tap.phase, at = at } end
        d.reach = max(d.reach, list[#list].at + STEP)    -- bytes from a window's begin to the end of its last step
    end
    return d
end

-- The reduction along a filter row, whatever the parameters: where each step begins, as { phase, bytes behind the window's
-- begin }, and where each weight of a filter row is, in bytes counted through all steps.
local function reduction(p)
    local d = packs(p) and packed_reduction(p) or pixel_reduction(p)
    -- Steps are unrolled; many of them in several rounds of the same number, the last of which may begin with steps that
    -- are there for the number only.
    local list = d.list
    d.rounds = ceildiv(#list, p.math == "f32" and MOST_EXACT or MOST_UNROLLED)
    if d.rounds > 1 and -#list % (d.rounds - 1) < -#list % d.rounds then d.rounds = d.rounds - 1 end
    d.round_steps = ceildiv(#list, d.rounds)
    while #list < d.rounds * d.round_steps do list[#list + 1] = { phase = 0, at = 0 } end
    return d
end

local reductions <const> = setmetatable({}, { __mode = "k" })   -- of each problem

local function reduction_of(p)
    if not reductions[p] then reductions[p] = reduction(p) end
    return reductions[p]
end

-- How the patch of a row is cut into slots: { slots of a row's window, lines of a slot }.
local function slots_of(p)
    local window = (p.r - 1) * p.dil_h + 1
    return ceildiv(window, p.stride_h), min(window, p.stride_h)
end

-- Shared memory of 8 filters and one row of 64 columns.
local function least_bytes(p)
    local row = reduction_of(p)
    local window, lines = slots_of(p)
    local patch = (window + 1) * lines * row.phases * (63 + ceildiv(row.reach, row.cell)) * row.cell
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
    local window = slots_of(p)
    if window >= MOST_SLOTS then
        return false, string.format("a window of %d rows of lines; it is for %d at most", window, MOST_SLOTS - 1)
    end
    local least = least_bytes(p)
    if least > t.smem_block - 1024 then
        return false, string.format("its smallest tile takes %d bytes of shared memory; a block has %d", least, t.smem_block - 1024)
    end
    return true
end

-- Bytes of a staged run, the columns of a filter or the filters of a column, with what keeps the banks of neighbouring runs
-- apart; and of all runs of a warpgroup.
local function staging(p, s, filters, columns)
    if s.nq > 0 then
        local apart = 8 * p.bytes   -- what 4 threads write; there is room to shift the run
        local run = roundup(columns * p.bytes + 16 - apart, 2 * apart) + apart
        return run, 64 * run
    end
    if p.layout == "nchw" then
        local run = columns * p.bytes + 16
        return run, filters * run
    end
    local run = roundup(filters * 4 + 96, 128) - 96
    if p.bytes == 2 then run = filters % 16 == 0 and filters * 2 + 16 or filters * 2 end
    return run, columns * run
end

-- How x comes to a slot: what a thread takes at a time, an item, and how many of those.
local function take_items(p, s, d)
    d.form = "vectors"      -- 16 bytes of the slot; of each pixel, pieces of `vector` numbers
    d.item_pixels, d.item_channels = max(1, 16 // (d.channels * p.bytes)), min(d.channels, 16 // p.bytes)
    d.vector = cuda.power_in(p.c, d.item_channels)
    d.words = 4
    if packs(p) then
        d.form = "fours"    -- all channels of four columns
        d.item_pixels, d.item_channels, d.words = 4, p.c, 4 * p.c
    elseif p.layout == "nchw" and p.bytes == 2 then
        d.form = "planes"   -- two columns of up to 8 channels
        d.item_pixels, d.item_channels = 2, min(d.channels, 8)
        d.words = d.item_channels
    elseif p.bytes == 2 and p.c % 2 == 1 then
        d.form = "pairs"    -- all channels of two columns
        d.item_pixels, d.item_channels, d.words = 2, d.channels, p.c
    elseif p.layout == "nchw" then
        d.form = "columns"  -- four channels of a column
    end
    d.line_items = d.line_bytes // (d.channels * p.bytes * d.item_pixels)
    d.pixel_items = d.channels // d.item_channels
    d.slot_items = d.slot_lines * d.line_items * d.pixel_items
    local each, most = ceildiv(d.slot_items, 128 * s.lg), REGISTERS[s.wg][s.lg].taken
    d.live = d.words    -- words that are not zero
    if d.form == "vectors" then
        d.live = d.words * min(p.c, d.item_channels) // d.item_channels
    elseif d.form ~= "fours" then
        d.live = min(d.words, p.c)
    end
    d.batches = ceildiv(each * d.live, most)
    d.items = ceildiv(each, d.batches)
    if d.form == "planes" or d.form == "pairs" then most = min(most, MOST_PAIRED) end
    d.depth = max(1, min(MOST_BATCHES, most // (d.items * d.live)))
end

local function derive(p, s, t)
    local row = reduction_of(p)
    local d = { parts = p.math == "f32" and 2 or 1, type = p.math == "f32" and "tf32" or p.math, channels = row.channels,
                phases = row.phases, cell = row.cell, steps = #row.list, where = row.where, rounds = row.rounds,
                round_steps = row.round_steps, lead = lead(p) }
    d.tiles_k = ceildiv(p.k, s.tk)
    d.cells = s.tq - 1 + ceildiv(row.reach, d.cell)
    if p.bytes == 2 and d.cells * p.stride_w % 2 == 1 then d.cells = d.cells + 1 end   -- whole pairs of columns
    d.line_bytes = d.phases * d.cells * d.cell
    d.window, d.slot_lines = slots_of(p)
    d.slot_bytes = d.slot_lines * d.line_bytes
    d.weight_bytes = p.r * d.steps * s.tk * STEP
    d.columns = s.nq > 0 and s.nq or 64 * s.mi
    local blocks_k = s.nq > 0 and s.tk // (64 * s.mi) or 1
    take_items(p, s, d)
    -- All filters are staged at a time, or a part of them if only that leaves room for slots ahead.
    local wanted = d.window + max(1, s.wg // (s.tq // d.columns * blocks_k))
    local most = min(wanted + MOST_SLOTS_AHEAD, MOST_SLOTS)
    d.slots = -1
    for parts = 1, s.nq > 0 and 1 or s.tk // 8 do
        if d.slots < wanted and s.tk % (8 * parts) == 0 then
            d.stage_k = s.tk // parts
            d.run_bytes, d.stage_bytes = staging(p, s, d.stage_k, d.columns)
            d.fixed_bytes = d.parts * d.weight_bytes + s.wg * d.stage_bytes + 4 * s.tk + 16 * most
            d.slots = min(most, ((t.smem_block - 1024 - d.fixed_bytes) // d.parts // 1024 * 1024) // d.slot_bytes)
        end
    end
    d.ring_bytes = roundup(max(0, d.slots) * d.slot_bytes, 1024)
    d.smem = d.fixed_bytes + d.parts * d.ring_bytes
    d.accumulators = s.mi * (s.nq > 0 and s.nq or s.tk) // 2
    d.registers = REGISTERS[s.wg][s.lg]
    return d
end

local shape <const> = launch.remember(derive)

function few_channels.check(p, t, s)
    local ok, reason = few_channels.applies(p, t)
    if not ok then return reason end
    if s.nq > 0 then
        if p.layout ~= "nchw" then return "products of filters and columns leave rows of columns: NCHW" end
        if s.nq % 8 ~= 0 then return string.format("nq is %d; a multiple of 8", s.nq) end
        if s.tk % (64 * s.mi) ~= 0 then return string.format("tk is %d; a multiple of %d", s.tk, 64 * s.mi) end
        if s.tq % s.nq ~= 0 then return string.format("tq is %d; a multiple of %d", s.tq, s.nq) end
    elseif s.tk % 8 ~= 0 then
        return string.format("tk is %d; a multiple of 8", s.tk)
    elseif s.tq % (64 * s.mi) ~= 0 then
        return string.format("tq is %d; a multiple of %d", s.tq, 64 * s.mi)
    end
    local d = shape(p, s, t)
    local most = d.registers.sums - (p.residual and RESIDUAL_SUMS or 0)
    if d.accumulators * d.parts > most then
        return string.format("%d sums of a thread; at most %d", d.accumulators * d.parts, most)
    end
    if d.slots <= d.window then
        return string.format("%d slots of %d bytes and %d bytes of weights and stores do not fit", d.window + 1,
                             d.parts * d.slot_bytes, d.fixed_bytes)
    end
end

-- Whether neighbouring blocks write parts of the same 32 bytes of y.
local function torn(p, columns) return p.layout == "nchw" and p.q > columns and p.q * p.bytes % 32 ~= 0 end

-- Rows of a tile: what leaves the fewest rows, and slots that are filled for a tile's first row only, to the block with the most.
local function best_rows(p, t, tk, tq)
    local window = slots_of(p)
    local blocks, columns = max(1, t.sms // ceildiv(p.k, tk)), p.n * ceildiv(p.q, tq)
    local best, least = 1, math.huge
    local fewest = ceildiv(p.p, torn(p, tq) and MOST_TORN or MOST_ROWS)
    for parts = fewest, min(p.p, fewest + 64) do
        local rows = ceildiv(p.p, parts)
        local clocks = ceildiv(columns * ceildiv(p.p, rows), blocks) * (rows + (window - 1) / 4 + 0.5)
        if clocks < least then best, least = rows, clocks end
    end
    return best
end

-- Clocks of a multiprocessor, fitted to measurements on an H200.
local SLOT_CLOCKS <const> = 650      -- of a slot
local WORD_CLOCKS <const> = 38       -- of a word of it
local LATENCY <const> = 440          -- until what is taken has come
local PRODUCT_CLOCKS <const> = 0.92  -- for a clock of the tensor cores or of their operands
local SUM_CLOCKS <const> = 5.2       -- of a sum that is moved to an FP32 register
local UNIT_CLOCKS <const> = 380      -- of a unit, beside its products
local STORE_CLOCKS <const> = 14      -- of 128 bytes that a warpgroup stages and stores
local RUN_CLOCKS <const> = 15        -- of a run of columns
local PIECE_CLOCKS <const> = 14      -- of a piece of less than 16 bytes that a thread stores
local SHARED_CLOCKS <const> = 1.2    -- for a clock of shared memory
local TORN_BYTES <const> = 205       -- that memory loses for a run whose ends neighbours write, too: see torn_bytes
local ONE_TAP <const> = 1.35         -- for filters of one pixel, whose products are too few to hide anything
local HIDDEN <const> = 0.1           -- what is left of the shorter of two times that overlap
local FIRST_CLOCKS <const> = 3800    -- until the first product

-- What a unit takes: the tensor cores, the warpgroup that stores it, and shared memory.
local function unit_clocks(p, s, d)
    local n = s.nq > 0 and s.nq or s.tk
    local products = s.mi * p.r * d.steps * (2 * d.parts - 1)
    local operands = 16 + n / 4    -- clocks of shared memory
    local multiply = PRODUCT_CLOCKS * products * max(n / 2, operands) + UNIT_CLOCKS
    if d.parts == 2 then multiply = multiply + SUM_CLOCKS * p.r * d.rounds * d.accumulators end
    local numbers, lines = s.mi * 64 * n, s.mi * n * p.bytes / 2
    local store = STORE_CLOCKS * lines
    local runs, piece = 0, 16
    if p.layout == "nhwc" then
        piece = cuda.power_in(p.k * p.bytes, 16)
    else
        runs = s.nq > 0 and s.mi * 64 or s.tk
        if s.nq > 0 then
            piece = p.bytes == 2 and (p.p * p.q % 2 == 1 or p.q % 2 == 1) and 8 or 16   -- pairs are staged one by one
        else
            piece = p.q * p.bytes % 16 == 0 and 16 or p.q % 2 == 0 and 2 * p.bytes or p.bytes
        end
        store = store + RUN_CLOCKS * runs
    end
    if piece < 16 then store = store + PIECE_CLOCKS * numbers * p.bytes / piece / 128 end
    return multiply, store, SHARED_CLOCKS * (products * operands + 4 * lines)
end

-- What a row of a tile takes: its units, and filling a slot.
local function row_clocks(p, s, d)
    local multiply, store, shared = unit_clocks(p, s, d)
    -- warpgroups take turns but for strict f32
    local unit = max((multiply + store) / s.wg, shared, d.parts == 2 and 0 or multiply)
    local row_units = ceildiv(min(s.tq, p.q), d.columns) * (s.nq > 0 and s.tk // (64 * s.mi) or 1)
    local words, depth = d.items * d.live, d.depth
    local together = (d.form == "planes" or d.form == "pairs") and 2 or d.form == "fours" and 4 or 1
    if p.w % together ~= 0 then words, depth = 2 * words, 1 end   -- numbers one by one
    return row_units * unit, SLOT_CLOCKS + d.batches * (LATENCY / depth + WORD_CLOCKS * words), multiply + store
end

-- Sums of a thread by one product.
local function most_sums(p, wg)
    return (REGISTERS[wg][1].sums - (p.residual and RESIDUAL_SUMS or 0)) // (p.math == "f32" and 2 or 1)
end

-- Adds a candidate, and the same with more threads that fill slots, if it waits for them.
local function add(list, p, t, s)
    s.tp, s.lg = best_rows(p, t, s.tk, s.tq), 1
    list[#list + 1] = s
    if few_channels.check(p, t, s) then return end
    local units, fill = row_clocks(p, s, shape(p, s, t))
    if fill > units then
        list[#list + 1] = { tk = s.tk, tp = s.tp, tq = s.tq, mi = s.mi, wg = s.wg, lg = 2, nq = s.nq }
    end
end

-- Products whose rows are columns of y: as many filters as fit, and half as many for more blocks.
local function add_columns(p, t, list)
    local tk, sizes = roundup(p.k, 8), 0
    while sizes < 2 do
        if not few_channels.check(p, t, { tk = tk, tp = 1, tq = 64, mi = 1, wg = 2, lg = 1, nq = 0 }) then
            sizes = sizes + 1
            for _, tq in ipairs { 64, 128, 256 } do
                for mi = 1, tq > 64 and 2 or 1 do
                    if tq == 64 or tq < p.q + 64 then
                        for wg = 2, mi == 1 and tk // 2 <= most_sums(p, 3) and 3 or 2 do
                            add(list, p, t, { tk = tk, tq = tq, mi = mi, wg = wg, nq = 0 })
                        end
                    end
                end
            end
        end
        if tk == 8 then break end
        tk = roundup(tk // 2, 8)
    end
end

-- Columns of the products of wg warpgroups that share a row of y evenly: as few products as there can be, or twice as many
-- until a tile of tk filters fits into shared memory, but not of less than 64 columns for that.
local function even_columns(p, t, tk, wg)
    local products = ceildiv(p.q, min(256, 2 * most_sums(p, wg) // 8 * 8))
    local nq
    repeat
        nq = roundup(ceildiv(p.q, products), 8)
        products = 2 * products
    until nq < 128 or not few_channels.check(p, t, { tk = tk, tp = 1, tq = nq, mi = 1, wg = wg, lg = 1, nq = nq })
    return nq
end

-- Products whose rows are filters: a row of y in as few as possible, of the same width.
local function add_rows(p, t, list)
    local most = roundup(ceildiv(p.k, ceildiv(p.k, 256)), 64)
    for _, tk in ipairs(most > 64 and { most, 64 } or { 64 }) do
        for wg = 2, 3 do
            local nq = even_columns(p, t, tk, wg)
            for _, tq in ipairs(nq < p.q and not torn(p, nq) and { nq, 2 * nq } or { nq }) do
                add(list, p, t, { tk = tk, tq = tq, mi = 1, wg = wg, nq = nq })
            end
        end
    end
end

function few_channels.candidates(p, t)
    local list = {}
    add_columns(p, t, list)
    if p.layout == "nchw" then add_rows(p, t, list) end
    return list
end

-- Of two times that overlap as far as there are buffers.
local function longer(a, b, ahead) return max(a, b) + HIDDEN * max(1, 3 / ahead) * min(a, b) end

-- What memory loses for runs whose ends neighbours write, too: the more a block writes in between, rows of other warpgroups and
-- filters of the same row, the more of those ends have left the cache before the neighbour completes them.
local function torn_bytes(p, s, columns)
    if not torn(p, columns) then return 0 end
    return TORN_BYTES * (s.wg - 1 + s.tk / 64) * p.n * p.k * p.p * ceildiv(p.q, columns)
end

function few_channels.time(p, t, s)
    local d = shape(p, s, t)
    local tiles = p.n * ceildiv(p.p, s.tp) * ceildiv(p.q, s.tq)
    local units, fill, last = row_clocks(p, s, d)
    local rounds, rows = ceildiv(tiles, max(1, t.sms // d.tiles_k)), min(s.tp, p.p)
    local tile = longer(rows * units, (rows + d.window - 1) * fill, d.slots - d.window)
    local clocks = rounds * tile + d.window * fill + last + FIRST_CLOCKS
    local bytes = (p.n * p.c * p.h * p.w + p.n * p.k * p.p * p.q) * p.bytes + torn_bytes(p, s, d.columns)
    local one_tap = p.r * p.s == 1 and ONE_TAP or 1
    return 2.5 + 1e6 * one_tap * longer(clocks / t.clock, bytes / t.bandwidth, MOST_SLOTS)
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
    local args = launch.args(p, { call("input"), call("weights") }, { "H", "W", "P", "Q", tiles_p, tiles_q, tiles })
    local offsets = {}
    for i, step in ipairs(reduction_of(p).list) do
        offsets[i] = (step.phase * d.cells * d.cell + step.at) // 16
        if step.next then   -- the descriptor's distance from one piece to the next, beyond the 16 bytes that it has
            local apart = (step.next.phase - step.phase) * d.cells * d.cell + step.next.at - step.at
            offsets[i] = offsets[i] + (apart // 16 - 1 << 16)
        end
    end
    return {
        template = "conv2d_few_channels.cu.in", env = { cuda = cuda, p = p, s = s, d = d, offsets = offsets }, align = 16,
        requires = launch.requires(p, p.dil_h * p.r + 2 * p.stride_h, (d.cells + 1) * p.stride_w, false),
        workspace = "0",
        launches = { {
            suffix = "", grid = { string.format("min(%d, %s) * %d", max(1, t.sms // d.tiles_k), tiles, d.tiles_k), "1", "1" },
            block = { 128 * (s.lg + s.wg), 1, 1 }, smem = tostring(d.smem), args = args,
        } },
    }
end

return few_channels
