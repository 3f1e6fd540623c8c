-- grouped.lua: convolution in groups of a few channels, on the tensor cores by mma.sync.
--
-- A group is a matrix product of its own: pixels x (taps x channels) by (taps x channels) x filters. mma.sync takes 16 pixels and
-- 8 filters at a time, so that groups of 8 filters waste nothing, where a dense tile over several groups is mostly zeros. The
-- reduction counts in words of 32 bits - one float, or two neighbouring 16-bit channels - with the channels of a tap behind one
-- another and the taps behind these; a step of mma takes 8 words, wherever they end.
--
-- A block keeps the weights of a few groups in shared memory, in the order in which threads read them, and takes tile after tile
-- of pixels: the patch of the input with its halo is copied once, and a tap is another address in it. A warp's products are
-- pixels one below another, so that a row of pixels, once in registers, serves all filter rows. Patches are [pixel][word] for
-- NHWC, [word][row][column] for NCHW. There, a thread's two rows of a 16-bit product are neighbouring pixels, so that it can store
-- them together; for that, and for strides, the columns of a patch row are kept apart by phase. NHWC stores 16-bit filters four at
-- a time: groups of 2 or 4 filters share the columns of a product, each in its own sums, and threads exchange halves of two.
--
-- Strict f32 is three TF32 products, as in wgmma.lua: sums of 16 products, or of 8 in each of 3 filter rows, move to FP32
-- registers. Tensor cores truncate: sums of 32 products were measured to be 1.65e-7 of themselves too near to zero on average, more
-- than FP32's roundings leave; that falls in proportion to the number of products.

local cuda = require "cuda"
local launch = require "launch"

local ceildiv <const>, roundup <const> = cuda.ceildiv, cuda.roundup
local min <const>, max <const>, ipairs <const> = math.min, math.max, ipairs

local grouped = {}

grouped.parameters = {
    { "gt", 1, 64 },     -- groups of a block
    { "kt", 1, 32 },     -- products of 8 filters of each of these groups
    { "gw", 1, 8 },      -- groups of a warp at a time
    { "nt", 1, 4 },      -- products of 8 filters of a warp at a time
    { "mt", 1, 8 },      -- products of 16 pixels of a warp at a time, one below another
    { "rt", 1, 32 },     -- filter rows at a time: a row of pixels that is read once serves all of these
    { "tn", 1, 64 },     -- images of a block
    { "tp", 1, 64 },     -- rows of each image
    { "tq", 1, 256 },    -- columns of each image
    { "warps", 1, 16 },
    { "vec", 1, 8 },     -- nchw: elements of a row that are read at once; W is a multiple of it
    { "stages", 1, 2 },  -- patches: 2 to copy one while another is multiplied
    { "wide", 0, 1 },    -- 64-bit offsets within an image
}

local SHORTEST_EXACT_SUM <const> = 32   -- products; see wgmma.lua
local MOST_CHANNELS <const> = 128       -- of a group
local MOST_ACCUMULATORS <const> = { nchw = 40, nhwc = 64 }  -- registers of a thread
local MOST_WEIGHTS <const> = 16         -- tiles of 8 words x 8 filters in registers
local MOST_EXACT_ROWS <const> = 3       -- filter rows at a time, 8 products each, that an exact sum may take in the tensor cores
local MOST_UNROLLED <const> = 250       -- loads of operands and products in an unrolled loop body
local MOST_RESIDENT <const> = 16        -- blocks of a multiprocessor

function grouped.applies(p, t)
    if p.groups == 1 then return false, "one group is a dense product" end
    if p.cg == 1 then return false, "one channel a group leaves nothing to a matrix product" end
    if p.cg > MOST_CHANNELS then
        return false, string.format("%d channels a group; at most %d", p.cg, MOST_CHANNELS)
    end
    if p.math == "f32" and p.cg * p.r * p.s < SHORTEST_EXACT_SUM then
        return false, string.format("a sum of %d products is more exact by FMA", p.cg * p.r * p.s)
    end
    return true
end

-- A row or column of filter taps, as the patch has it: a single tap needs no pixels between those that the stride takes.
local function axis(taps, stride, dilation)
    local single = taps == 1
    return { step = single and stride or 1, apart = single and 1 or stride, reach = (taps - 1) * dilation }
end

-- How many threads go along a line of `length` items, `width` threads each, so that `lines` of them take the least time: a line
-- costs a few instructions more than an item. Neighbours should read neighbours: at least 16 where a line has as many.
local function lanes_along(length, width, lines, threads)
    local best, least = 1, math.huge
    for _, lanes in ipairs { 1, 2, 4, 8, 16, 32, 64, 128, 256, 512 } do
        local scattered = lanes * width < 16 and lanes < length
        if lanes * width <= threads and not scattered then
            local cost = ceildiv(lines, threads // (lanes * width)) * (3 + ceildiv(length, lanes))
            if cost < least then best, least = lanes, cost end
        end
    end
    return best
end

local function derive(p, s, t)
    local nchw = p.layout == "nchw"
    local d = { half = p.bytes == 2, exact = p.math == "f32", threads = 32 * s.warps }
    d.type = p.bytes == 2 and "m16n8k16_" .. p.math or "m16n8k8_tf32"
    d.per_word = 4 // p.bytes
    d.cw = ceildiv(p.cg, d.per_word)                       -- words of a group at a pixel
    d.words = p.s * d.cw                                   -- of a filter row
    d.steps = p.r // s.rt * ceildiv(d.words, 8)
    d.remainder = d.words % 8 ~= 0
    d.promote = s.rt == 1 and 2 or 1                       -- steps of an exact sum
    d.parts = s.kt // s.nt
    d.chunks_k = ceildiv(p.kg, 8 * s.kt)
    d.chunks = ceildiv(p.groups, s.gt) * d.chunks_k        -- blocks that share a tile of pixels
    d.strips = s.tp // s.mt * ceildiv(s.tn * s.tq, 16)
    d.items = s.gt // s.gw * d.parts * d.strips
    local h, w = axis(p.r, p.stride_h, p.dil_h), axis(p.s, p.stride_w, p.dil_w)
    d.row_step, d.rows_apart, d.column_step, d.columns_apart = h.step, h.apart, w.step, w.apart
    d.rows = (s.tp - 1) * h.apart + h.reach + 1
    -- neighbouring pixels of a 16-bit row are stored together
    d.pairs = nchw and d.half
    d.phases = d.columns_apart * (d.pairs and 2 or 1)
    d.lead = nchw and roundup(p.pad_left, s.vec) - p.pad_left or 0
    d.columns = roundup(d.lead + (s.tq - 1) * w.apart + w.reach + 1, nchw and s.vec or 1)
    -- how the patch is filled: asynchronously in pieces, or through registers, two channels to a word
    d.async = not d.half or not nchw and p.cg % 2 == 0
    d.run = max(1, s.vec // d.phases)                      -- neighbouring words of a phase in a vector
    d.slots = roundup(ceildiv(d.columns, d.phases), nchw and (d.async and s.vec or d.run) or 1)
    local lines = s.tn * d.rows * d.phases * d.slots
    if nchw then
        d.pixel_step, d.word_step = 1, lines + (8 - lines % 32) % 32      -- 4 words x 8 pixels meet in no bank
        d.patch_words = s.gt * d.cw * d.word_step
        d.piece = 4 * s.vec
    else
        local chunk = s.gt * d.cw
        d.pixel_step, d.word_step = roundup(chunk, 4) + (roundup(chunk, 4) % 8 == 0 and 4 or 0), 1
        d.patch_words = lines * d.pixel_step
        d.piece = 4
        for _, bytes in ipairs { 8, 16 } do
            if p.c * p.bytes % bytes == 0 and chunk * 4 % bytes == 0 then d.piece = bytes end
        end
    end
    d.patch_words = roundup(d.patch_words, 4)
    d.pieces = nchw and 1 or d.async and s.gt * d.cw * 4 // d.piece or s.gt * d.cw
    d.column_lanes = lanes_along(nchw and d.columns // s.vec or d.columns, d.pieces,
                                 s.tn * d.rows * (nchw and s.gt * d.cw or 1), d.threads)
    d.weight_words = s.gt * d.steps * s.rt * s.kt * 64
    d.lines = (s.mt - 1) * h.apart + (s.rt - 1) * p.dil_h + 1              -- rows of pixels that a step reads
    d.step_size = s.gw * (4 * d.lines + s.rt * s.nt * (s.mt * (d.exact and 3 or 1) + 1))
    d.unrolled = d.steps * d.step_size <= MOST_UNROLLED
    -- offsets are constants of the unrolled loop, or come from a table
    d.table = not d.unrolled or d.cw % 4 ~= 0
    d.table_words = d.table and d.steps * 8 * (d.pairs and 2 or 1) or 0
    d.gaps = p.kg % (8 * s.kt) ~= 0 or d.remainder or p.cg % d.per_word ~= 0 or p.groups % s.gt ~= 0
    d.smem = 4 * (s.stages * d.patch_words + d.weight_words + d.table_words)
    d.accumulators = 4 * s.gw * s.mt * s.nt
    -- groups of 2 or 4 filters share the columns of a tile; threads exchange halves of two tiles of a 16-bit NHWC pixel
    d.fold = 1
    if (p.kg == 2 or p.kg == 4) and s.gw * p.kg % 8 == 0 then d.fold = 8 // p.kg end
    d.exchange = not nchw and d.half and 8 % p.kg == 0 and d.fold * p.kg == 8 and s.gw % (2 * d.fold) == 0
    d.whole = p.groups % s.gt == 0 and (d.fold > 1 or p.kg % (8 * s.kt) == 0)   -- all filters of all tiles are there
    -- filters that a thread stores together, and those that it stores at once
    d.run_filters = d.exchange and 4 or 2 * s.nt
    d.vector = 1
    local whole = d.fold * p.kg == 8 and (p.groups % d.fold == 0 and 8 or p.kg) or p.kg
    for _, n in ipairs { 2, 4, 8 } do
        if not nchw and whole % n == 0 and p.k % n == 0 and d.run_filters % n == 0 and n * p.bytes <= 16 then d.vector = n end
    end
    -- The compiler is held to registers for so many blocks, so that it does not take all of them to load ahead.
    local registers = (nchw and 62 or 52) + (d.accumulators * 9 // 8 + 2 * s.rt * s.nt) * (d.exact and 2 or 1)
    d.bound = min(MOST_RESIDENT, t.registers_sm // 4 // (32 * roundup(registers, 8)) * 4 // s.warps)
    d.resident = min(d.bound, t.smem_sm // (d.smem + t.smem_reserved), t.warps_sm // s.warps)
    -- tiles in work at a time: one block more than there is room for would wait until all others are done
    d.together = max(1, t.sms * d.resident // d.chunks)
    return d
end

local shape <const> = launch.remember(derive)

local function most_accumulators(p)
    return p.math == "f32" and 32 or MOST_ACCUMULATORS[p.layout]
end

function grouped.check(p, t, s)
    local ok, reason = grouped.applies(p, t)
    if not ok then return reason end
    local d = shape(p, s, t)
    if s.gt > p.groups then return string.format("gt %d is more than %d groups", s.gt, p.groups) end
    if s.kt > ceildiv(p.kg, 8) then return string.format("kt %d is more than the %d filters of a group need", s.kt, p.kg) end
    if s.gt > 1 and d.chunks_k > 1 then return "several groups to a block need all filters of each" end
    if s.gt % s.gw ~= 0 then return string.format("gt %d is no multiple of gw %d", s.gt, s.gw) end
    if s.kt % s.nt ~= 0 then return string.format("kt %d is no multiple of nt %d", s.kt, s.nt) end
    if d.accumulators > most_accumulators(p) then
        return string.format("%d accumulators of a thread; at most %d", d.accumulators, most_accumulators(p))
    end
    if s.mt == 8 and s.gw == 2 then return "8 rows of 2 groups spill" end
    if s.tp % s.mt ~= 0 then return string.format("tp %d is no multiple of mt %d", s.tp, s.mt) end
    if p.r % s.rt ~= 0 then return string.format("the filter's %d rows are no multiple of rt %d", p.r, s.rt) end
    if s.rt * s.nt > MOST_WEIGHTS then
        return string.format("rt*nt = %d tiles of weights in registers; at most %d", s.rt * s.nt, MOST_WEIGHTS)
    end
    if d.exact and s.rt > MOST_EXACT_ROWS then
        return string.format("an exact sum of %d products; at most %d", 8 * s.rt, 8 * MOST_EXACT_ROWS)
    end
    if d.step_size > MOST_UNROLLED then
        return string.format("a step of %d loads and products; at most %d", d.step_size, MOST_UNROLLED)
    end
    if d.pairs and s.tq % 2 ~= 0 then return "16-bit pixels of nchw are stored in pairs: tq must be even" end
    if p.layout == "nhwc" and s.vec ~= 1 then return "vec is for nchw" end
    if s.vec > 1 then
        if s.vec & (s.vec - 1) ~= 0 or s.vec * p.bytes > 16 then return "vec must be a power of two of at most 16 bytes" end
        if d.column_step > 1 then return "columns that the stride leaves out are not read: vec must be 1" end
        if not d.half and d.phases > 1 then return "floats are copied apart into phases: vec must be 1" end
        if s.tq * p.stride_w % s.vec ~= 0 then return string.format("tiles of %d columns do not begin at vectors", s.tq) end
        if s.vec > d.phases and s.vec % d.phases ~= 0 or d.phases > s.vec and d.phases % s.vec ~= 0 then
            return string.format("a vector of %d does not fall apart into %d phases", s.vec, d.phases)
        end
    end
    if s.stages == 2 and not d.async then return "two stages need asynchronous copies" end
    if d.pieces > d.threads then return string.format("%d pieces of a pixel for %d threads", d.pieces, d.threads) end
    if d.smem > t.smem_block then return string.format("%d bytes of shared memory; at most %d", d.smem, t.smem_block) end
    if d.resident < 1 then return "the registers of a block do not fit" end
    if s.wide == 0 and p.wide then return "an image of 2^31 elements or more needs wide=1" end
end

-- How many elements of a row may be read at once.
local function vector_width(p, tq)
    local w = axis(p.s, p.stride_w, p.dil_w)
    local phases = w.apart * (p.bytes == 2 and 2 or 1)
    if p.layout == "nhwc" or w.step > 1 or p.bytes == 4 and phases > 1 then return 1 end
    local vec = 4   -- 16-bit rows could be read by 8, but then more is read beside the tile
    while vec > 1 and (p.w % vec ~= 0 or tq * p.stride_w % vec ~= 0 or phases % vec ~= 0 and vec % phases ~= 0) do
        vec = vec // 2
    end
    return vec
end

-- Groups of a warp: as many as fill the columns of a tile, two such where threads can exchange halves.
local function groups_of_warp(p, gt)
    local gw = (p.kg == 2 or p.kg == 4) and 8 // p.kg or 1
    if p.layout == "nhwc" and p.bytes == 2 and 8 % p.kg == 0 and gt % (2 * gw) == 0 then gw = 2 * gw end
    return gt % gw == 0 and gw or 1
end

function grouped.candidates(p, t)
    local list = {}
    local nhwc = p.layout == "nhwc"
    local most = most_accumulators(p)
    local pixel = p.cg * p.bytes
    local few = p.n * p.p * p.q < 4096                     -- pixels: then blocks share the filters of a group
    local stages = nhwc and p.bytes == 2 and p.cg % 2 == 0 and not few and 2 or 1
    local width = min(64, not nhwc and p.bytes == 2 and roundup(p.q, 2) or p.q)
    if p.q > 64 then width = p.q % 56 == 0 and 56 or 64 end
    local function add(kt, gt, mt, factor, tn, tq)
        local nt = min(4, kt)
        while kt % nt ~= 0 do nt = nt - 1 end
        local rt = p.r
        if p.dil_h > 2 or rt * nt > MOST_WEIGHTS or p.math == "f32" and rt > MOST_EXACT_ROWS then rt = 1 end
        local gw = groups_of_warp(p, gt)
        if 4 * gw * nt * mt > most then
            if stages == 2 and p.kg < 8 and mt > 4 then return end   -- fewer rows, and all filters that a thread can store at once
            gw = 1
        end
        if 4 * gw * nt * mt > most then return end
        local items = gt // gw * (kt // nt) * factor * ceildiv(tn * tq, 16)
        list[#list + 1] = { gt = gt, kt = kt, gw = gw, nt = nt, mt = mt, rt = rt, tn = tn, tp = mt * factor, tq = tq,
                            warps = items <= 4 and 2 or items <= 12 and 4 or 8, vec = vector_width(p, tq), stages = stages,
                            wide = p.wide and 1 or 0 }
    end
    local full = ceildiv(p.kg, 8)
    local tall = p.p % 7 == 0 and 7 or 8
    for _, kt in ipairs { full, few and 1 or 4 } do
        if full % kt == 0 and (kt < full or kt == full and list[1] == nil) then
            for _, gt in ipairs { 1, 2, 4, 8, 16 } do
                local bytes = gt * pixel
                if gt == 1 or gt <= p.groups and kt == full and bytes <= (nhwc and 128 or 64) then
                    local skip = nhwc and bytes < 64 and 2 * gt <= p.groups and kt == full and not few
                    for _, mt in ipairs { few and 1 or 2, few and 2 or 4, few and 4 or tall } do
                        for factor = 1, skip and 0 or 2 do
                            if mt * factor < p.p + mt then
                                add(kt, gt, mt, factor, 1, width)
                                if nhwc and width == 56 and not few then add(kt, gt, mt, factor, 1, 28) end
                                if width <= 14 and factor == 1 and p.n >= 8 then add(kt, gt, mt, factor, 8, width) end
                            end
                        end
                    end
                end
            end
        end
    end
    return list
end

-- Fitted to measurements on an H200. What a warp issues, and waits for it, in clocks: for a piece of the patch, a row of pixels from
-- shared memory and its split for an exact product, a product, weights of one, the store of the sums of one, and an item;
local PIECE <const>, PIECE_BY_REGISTERS <const> = 48, 190
local LOAD <const>, SPLIT <const>, PRODUCT <const>, EXACT_PRODUCT <const> = 4, 11, 2.5, 12
local WEIGHTS <const>, SUMS <const>, ITEM <const> = 5, 25, 60
-- for sums on their way to memory, a tile on its own beside that, a tap of packed weights, a block's start; how much longer a lone
-- warp takes; and which parts of the bandwidths patches and stores reach.
local LONE <const> = 1.25   -- a block of two stages that has its multiprocessor for itself
local STORE <const>, TILE <const>, TAP <const>, START <const>, ALONE <const> = 12, 4000, 65, 850, 1.6
local MEMORY <const>, L2 <const> = 0.8, 0.62

function grouped.time(p, t, s)
    local d = shape(p, s, t)
    local tiles = ceildiv(p.n, s.tn) * ceildiv(p.p, s.tp) * ceildiv(p.q, s.tq)
    local at_once = min(tiles, d.together)
    local resident = min(d.resident, ceildiv(at_once * d.chunks, t.sms))
    local patch = s.gt * d.cw * s.tn * d.rows * d.columns                                         -- words
    local copied = patch / (p.layout == "nchw" and s.vec or d.async and d.piece // 4 or 1)
    local fill = copied / 32 * (d.async and PIECE or PIECE_BY_REGISTERS)
    local products = s.rt * s.nt * (s.mt * (d.exact and EXACT_PRODUCT or PRODUCT) + WEIGHTS)
    local item = d.steps * s.gw * (d.lines * (d.exact and LOAD + SPLIT or LOAD) + products) + s.gw * s.mt * s.nt * SUMS + ITEM
    local work = (fill + d.items * item) / 4 + d.items * s.gw * s.mt * s.nt * STORE
    local filling, multiplying = fill / min(s.warps, 4), ceildiv(d.items, s.warps) * item * ALONE
    local alone = TILE + (s.stages == 2 and max(filling, multiplying) or filling + multiplying)
    if s.stages == 2 and d.resident == 1 then alone = LONE * alone end
    local weights = ceildiv(s.gt * min(8 * s.kt, p.kg) * d.cw, d.threads) * (10 + p.r * p.s) * TAP
    local clocks = START + weights + ceildiv(tiles, at_once) * max(resident * work, alone) + 0.9 * resident * work
    local stored = p.n * p.k * p.p * p.q * p.bytes
    local memory = max((p.n * p.c * p.h * p.w * p.bytes + stored) / (MEMORY * t.bandwidth),
                       (4 * patch * tiles * d.chunks + stored) / (L2 * t.l2_bandwidth))
    local compute = clocks / t.clock
    return 3.0 + 1e6 * (max(compute, memory) + 0.3 * min(compute, memory))
end

function grouped.explain(p, s)
    return string.format("%d groups x %d filters x %d images x %d rows x %d columns a block of %d warps", s.gt,
                         min(8 * s.kt, p.kg), s.tn, s.tp, s.tq, s.warps)
end

function grouped.launch(p, t, s)
    local d = shape(p, s, t)
    local call <const> = launch.arg
    local tiles_p, tiles_q = string.format("ceildiv(P, %d)", s.tp), string.format("ceildiv(Q, %d)", s.tq)
    local tiles = string.format("ceildiv(N, %d) * %s * %s", s.tn, tiles_p, tiles_q)
    local requires = launch.requires(p, p.dil_h * p.r + 65 * p.stride_h, p.dil_w * p.s + 257 * p.stride_w + 8, s.wide == 1)
    if s.vec > 1 then
        requires[#requires + 1] = { expr = string.format("W %% %d == 0", s.vec),
                                    why = string.format("rows are read %d elements at a time", s.vec) }
    end
    return {
        template = "conv2d_grouped.cu.in", env = { cuda = cuda, p = p, s = s, d = d }, align = 16, requires = requires,
        workspace = "0",
        launches = { {
            suffix = "", block = { d.threads, 1, 1 }, smem = tostring(d.smem),
            grid = { string.format("%d * min(%s, %d)", d.chunks, tiles, d.together), "1", "1" },
            args = launch.args(p, { call("input"), call("weights") }, { "N", "H", "W", "P", "Q", tiles_p, tiles_q, tiles }),
        } },
    }
end

return grouped
