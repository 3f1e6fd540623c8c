-- depthwise_direct.lua: depthwise convolution straight from global memory, without staging it.
--
-- A thread computes `tp` rows x `tq` columns of outputs, and where channels are innermost those of all channels of a load of `vec`
-- bytes. A window of an input row serves all of its taps. What neighbouring threads read twice comes from the L1 cache, so the
-- threads of a block are neighbours along both axes: `lq` along the columns, `lp` along the rows, and `lc` along the channels, or
-- else, where rows are innermost, on as many planes. It is for few taps, which stay in registers. Small problems take little longer
-- than a launch, and rows of any pitch are as good as others.

local cost = require "cost"
local cuda = require "cuda"
local launch = require "launch"

local ceildiv <const>, roundup <const>, power_in <const> = cuda.ceildiv, cuda.roundup, cuda.power_in
local min <const>, max <const>, ipairs <const> = math.min, math.max, ipairs

local depthwise_direct = {}

depthwise_direct.parameters = {
    { "tp", 1, 16 },     -- rows of outputs of a thread
    { "tq", 1, 16 },     -- columns
    { "lc", 1, 256 },    -- threads of a block along the channels
    { "lq", 1, 256 },    -- along the columns
    { "lp", 1, 256 },    -- along the rows
    { "vec", 2, 16 },    -- bytes of a load of x: along a row, or along the channels where these are innermost
    { "wide", 0, 1 },    -- 64-bit offsets within an image
}

local MOST_THREADS <const> = 512
local FEW_TAPS <const> = 16        -- whose weights each thread reads by itself: more come by way of shared memory
local MOST_AHEAD <const> = 32      -- registers of rows that are under way before the weights are there
local MOST_WINDOW <const> = 64     -- elements of a window
local MOST_ROWS <const> = 64       -- of the input that a tile reads
local MOST_WEIGHTS <const> = 100   -- in registers
local MOST_UNROLLED <const> = 1400 -- FMAs: NVRTC takes about 0.1 ms for each

function depthwise_direct.applies(p)
    if p.cg ~= 1 or p.groups == 1 then return false, string.format("%d channels a group; depthwise convolution has one", p.cg) end
    if p.r * p.s > MOST_WEIGHTS then
        return false, string.format("the weights of %d taps do not fit the registers", p.r * p.s)
    end
    return true
end

-- Everything that follows from the problem's constants and the parameters, and not from N, H, W. The names are the template's.
local function derive(p, s)
    local nhwc, elements = p.layout == "nhwc", s.vec // p.bytes
    local d = { threads = s.lc * s.lq * s.lp, elements = elements, channels = nhwc and elements or 1 }
    d.shift = nhwc and 0 or -p.pad_left % elements   -- columns in front of the first that is wanted, for aligned loads
    d.rows = (s.tp - 1) * p.stride_h + (p.r - 1) * p.dil_h + 1
    d.needed = d.shift + (s.tq - 1) * p.stride_w + (p.s - 1) * p.dil_w + 1
    d.window = nhwc and d.needed or roundup(d.needed, elements)
    d.loads = nhwc and d.window or d.window // elements    -- of a row
    d.tiles_c = ceildiv(p.k, d.channels * s.lc)
    d.weights = d.channels * p.r * p.s
    d.weight_vec = power_in(d.weights * p.bytes, 16)
    d.outputs = s.tp * s.tq * d.channels
    d.shares = nhwc and p.r * p.s > FEW_TAPS   -- weights of threads lie far apart
    if d.shares then
        local all = s.lc * d.weights
        d.smem = roundup(all * p.bytes, 16)
        d.copy_elements = min(power_in(all * p.bytes, 16), power_in(p.k * p.r * p.s * p.bytes, 16)) // p.bytes
        d.ahead = min(d.rows, max(1, MOST_AHEAD * 4 // (d.loads * s.vec)))
    else
        d.smem = 0
    end
    d.store = nhwc and elements or power_in(s.tq, 16 // p.bytes)   -- elements
    -- filter rows that an input row serves are in registers at a time
    d.live = min(s.tp * p.stride_h, p.r) * p.s * d.channels
    d.registers = min(255, roundup(26 + d.outputs + d.window * d.channels * (p.bytes == 2 and 3 or 4) // 4 + min(d.live, 40), 8))
    return d
end

local shape <const> = launch.remember(derive)

function depthwise_direct.check(p, t, s)
    local ok, reason = depthwise_direct.applies(p)
    if not ok then return reason end
    local nhwc, elements = p.layout == "nhwc", s.vec // p.bytes
    if s.vec & (s.vec - 1) ~= 0 or s.vec < p.bytes then
        return string.format("vec is %d; a power of two, at least %d", s.vec, p.bytes)
    end
    if nhwc and p.c % elements ~= 0 then return string.format("loads of %d channels do not divide %d", elements, p.c) end
    if nhwc and p.kg > 1 and elements > 1 then return "several filters a channel need loads of one" end
    if not nhwc and s.tq * p.stride_w % elements ~= 0 then
        return string.format("a tile of %d columns is no multiple of loads of %d", s.tq, elements)
    end
    local d = shape(p, s)
    if d.threads > MOST_THREADS then return string.format("%d threads; at most %d", d.threads, MOST_THREADS) end
    if d.window > MOST_WINDOW then return string.format("a window of %d columns; at most %d", d.window, MOST_WINDOW) end
    if d.rows > MOST_ROWS then return string.format("%d rows of input; at most %d", d.rows, MOST_ROWS) end
    if d.weights > MOST_WEIGHTS then return string.format("%d weights of a thread; at most %d", d.weights, MOST_WEIGHTS) end
    if d.outputs * p.r * p.s > MOST_UNROLLED then
        return string.format("%d unrolled FMAs; at most %d", d.outputs * p.r * p.s, MOST_UNROLLED)
    end
    if d.smem > 48 * 1024 then return string.format("%d bytes of weights in shared memory; at most 49152", d.smem) end
    if s.wide == 0 and p.wide then return "an image of 2^31 elements or more needs wide=1" end
    if cost.occupancy(t, d.threads, d.registers, d.smem) < 1 then return "the registers of a block do not fit" end
end

local LARGEST <const> = 16   -- rows of input, and half as many outputs, for which the compiler keeps all in registers

-- Loads, rows and columns of a thread that are worth considering, as { vec, tp, tq }.
local function tiles(p)
    local list = {}
    local function add(vec, tq, heights)
        for _, tp in ipairs(heights) do
            local wasted = roundup(p.p, tp) * roundup(p.q, tq) > 1.3 * p.p * p.q
            local large = (tp - 1) * p.stride_h + p.r > LARGEST or tp * tq > 2 * LARGEST
            if tp == 1 or tp <= p.p and not wasted and not large then list[#list + 1] = { vec, tp, tq } end
        end
    end
    if p.layout == "nhwc" then
        local most = p.kg == 1 and power_in(p.c * p.bytes, 8) or p.bytes
        local vec = min(most, p.r * p.s > 30 and p.bytes or p.bytes == 2 and 4 or 8)
        for _, tq in ipairs { 1, 2, 4, 7 } do
            if tq < 2 * p.q then add(vec, tq, tq < 3 and { 1, 2, 4, 7 } or { 2, 4, 5 }) end
        end
        if p.n == 1 and vec > p.bytes then add(max(vec // 2, p.bytes), 1, { 1, 2 }) end
        return list
    end
    local wide = power_in(p.q, 16 // p.bytes)
    for _, tq in ipairs(wide > 2 and { wide, wide // 2 } or p.q % 4 == 3 and { 2, 4, 1 } or { 2, 1 }) do
        local vec = min(power_in(p.w * p.bytes, 16), power_in(tq * p.stride_w * p.bytes, 16))
        add(vec, tq, { 1, 2, 3, 4, 5, 7, 8, 10, 14 })
    end
    return list
end

function depthwise_direct.candidates(p, t)
    local list, nhwc = {}, p.layout == "nhwc"
    local function add(tile, lc, lq, lp)
        list[#list + 1] = { tp = tile[2], tq = tile[3], lc = lc, lq = lq, lp = lp, vec = tile[1], wide = p.wide and 1 or 0 }
    end
    for _, tile in ipairs(tiles(p)) do
        local vec, across, below = tile[1], ceildiv(p.q, tile[3]), ceildiv(p.p, tile[2])
        if nhwc then
            local lanes = ceildiv(p.k * p.bytes, vec)
            local lc = roundup(lanes, 32) * 8 <= lanes * 9 and 32 or roundup(lanes, 16) * 8 <= lanes * 9 and 16 or 8
            add(tile, lc, 1, min(below, 64 // lc))
            add(tile, lc, min(across, 64 // lc), 1)
            add(tile, lc, min(across, 2), min(below, 64 // lc))
        else
            local lq = across <= 32 and across or ceildiv(across, ceildiv(across, 32))
            for _, threads in ipairs { 64, 128 } do
                local lp = max(1, min(below, threads // lq))
                add(tile, lp == below and max(1, min(16, threads // (lq * lp))) or 1, lq, lp)
            end
        end
    end
    return list
end

local LAUNCH_US <const> = 5.5      -- of which cost.lua counts less than half, for all schedules
local COMPARABLE <const> = 0.8     -- as depthwise.lua's
-- Fitted to 2,300 measurements on an H200, each layout by itself. issue: clocks of a multiprocessor for an instruction of a warp;
-- hide: more of them the fewer warps there are; step: clocks of a warp alone; wave: of a wavefront; start: from a block's first
-- load to its last store, and row: for each row of its input; tail: of the time of a round of blocks, behind the last full one;
-- loss: the part of the shorter of work and memory time that adds to the longer; memory, l2: of the bandwidths; write: reads of
-- sectors that take as long as writing one
local MODEL <const> = {
    nchw = { issue = 0.22, hide = 1.67, step = 2.95, wave = 0.39, start = 640, row = 39, tail = 0.29, loss = 0.57, memory = 0.94,
             l2 = 1.64, write = 1.17 },
    nhwc = { issue = 0.207, hide = 1.66, step = 4.22, wave = 0.2, start = 610, row = 25, tail = 0.59, loss = 0.56, memory = 0.94,
             l2 = 1.78, write = 0.53 },
}
local STRIDED <const>, FEW_OUTPUTS <const> = 1.12, 4   -- times as long as that take strided windows of pixels for more outputs
local SECTOR <const>, LINE <const> = 32, 128   -- bytes that the L2 cache moves at least, and that the L1 cache reads at a time
local FEW_WEIGHTS <const> = 30     -- 16-bit weights that stay in registers as floats; more are converted again and again

-- Wavefronts of a warp's access to `width` bytes a thread: threads are `apart` bytes from each other along a row, and blocks of
-- lines as long as `row` and of planes as long as `plane` follow each other.
local function wavefronts(s, width, apart, row, plane)
    local across = min(s.lq, 32)
    local below = min(s.lp, max(1, 32 // across))
    -- lines that so many bytes touch, and one more if they begin anywhere
    local lines = min(across - 1, across * apart / LINE)
    lines = min(below * (lines + 1) - 1, (below - 1) * row / LINE + lines)
    local planes = max(1, 32 / (across * below))
    lines = min(planes * (lines + 1) - 1, (planes - 1) * plane / LINE + lines)
    return max(width * 32 / LINE, lines + (row % LINE ~= 0 and 1 or 0))
end

-- Of a warp: instructions and wavefronts. width: elements of a store.
local function work(p, s, d, width)
    local nhwc, half = p.layout == "nhwc", p.bytes == 2
    local stores, weight_loads = d.outputs // width, d.weights * p.bytes // d.weight_vec
    local issue = 70 + weight_loads + d.rows * (d.loads * 3 + 6) + d.outputs * p.r * p.s + 2 * stores + 2 * s.tp
    if half then
        issue = issue + d.weights + d.rows * (d.needed - d.shift) * d.channels + d.outputs // 2
        if d.live > FEW_WEIGHTS then issue = issue + d.rows * d.live // 2 end
    end
    local loads, store, weights   -- wavefronts of one
    if nhwc then
        loads = max(s.vec * 32 / LINE, 32 / min(32, s.lc) * ceildiv(min(s.lc, 32) * s.vec, LINE))
        store, weights = loads, d.shares and max(1, 32 * d.weight_vec / LINE) or min(32, max(1, 32 * d.weights * p.bytes / LINE))
    else
        loads = wavefronts(s, s.vec, s.tq * p.stride_w * p.bytes, s.tp * p.stride_h * p.w * p.bytes, p.h * p.w * p.bytes)
        store = wavefronts(s, width * p.bytes, s.tq * p.bytes, s.tp * p.q * p.bytes, p.p * p.q * p.bytes)
        weights = max(1, 32 / (s.lq * s.lp))
    end
    return issue, weight_loads * weights + d.rows * d.loads * loads + stores * store
end

-- Bytes that the L2 cache moves: what each block reads, and the sectors that stores touch.
local function cached(p, s, d, width, tiles_p, tiles_q, output)
    output = MODEL[p.layout].write * output
    local rows = min((s.lp * s.tp - 1) * p.stride_h + (p.r - 1) * p.dil_h + 1, p.h)
    local columns = min((s.lq * s.tq - 1) * p.stride_w + (p.s - 1) * p.dil_w + 1, p.w)
    if p.layout == "nhwc" then
        local run = s.lc * s.vec
        return tiles_p * tiles_q * p.n * d.tiles_c * rows * columns * roundup(run, SECTOR) + output * max(1, SECTOR / run)
    end
    local row = columns * p.bytes + (tiles_q == 1 and rows == p.h and SECTOR // 2 or SECTOR)
    return tiles_p * tiles_q * p.n * p.k * rows * row + output * min(SECTOR // p.bytes, s.tq // width)
end

function depthwise_direct.time(p, t, s)
    local d, nhwc, m = shape(p, s), p.layout == "nhwc", MODEL[p.layout]
    local tiles_p, tiles_q = ceildiv(p.p, s.tp * s.lp), ceildiv(p.q, s.tq * s.lq)
    local blocks = tiles_p * tiles_q * (nhwc and p.n * d.tiles_c or ceildiv(p.n * p.k, s.lc))
    local width = (nhwc or p.q % d.store == 0) and d.store or 1
    local issue, waves = work(p, s, d, width)
    local warps, resident = ceildiv(d.threads, 32), max(1, cost.occupancy(t, d.threads, d.registers, d.smem))
    local most = ceildiv(blocks, t.sms)   -- of a multiprocessor
    local busy = most * warps * (max(issue * m.issue, waves * m.wave) + issue * m.hide / (min(resident, most) * warps))
    local rounds = blocks / (t.sms * resident)
    rounds = rounds <= 1 and 1 or min(1 + rounds * m.tail, rounds + m.tail)
    local compute = max(busy, rounds * (m.start + d.rows * m.row + issue * m.step)) / t.clock
    local output = p.n * p.k * p.p * p.q * p.bytes
    local moved = p.n * p.c * p.h * p.w * p.bytes + output
    local traffic = max(moved / (m.memory * t.bandwidth),
                        cached(p, s, d, width, tiles_p, tiles_q, output) / (m.l2 * t.l2_bandwidth))
    local strided = nhwc and not d.shares and p.stride_w > 1 and s.tp * s.tq > FEW_OUTPUTS and STRIDED or 1
    return COMPARABLE * strided * (LAUNCH_US - 2.5 + 1e6 * (max(compute, traffic) + m.loss * min(compute, traffic)))
end

function depthwise_direct.explain(p, s)
    local threads = p.layout == "nhwc" and "%d channel lanes" or "%d planes"
    return string.format("%dx%d outputs a thread, loads of %d bytes; blocks of " .. threads .. " x %d rows x %d columns of threads",
                         s.tp, s.tq, s.vec, s.lc, s.lp, s.lq)
end

function depthwise_direct.launch(p, t, s)
    local d = shape(p, s)
    local nhwc = p.layout == "nhwc"
    local tiles_p, tiles_q = string.format("ceildiv(P, %d)", s.tp * s.lp), string.format("ceildiv(Q, %d)", s.tq * s.lq)
    local over = nhwc and string.format("N * %d", d.tiles_c) or string.format("ceildiv(N * %d, %d)", p.k, s.lc)
    local blocks = string.format("%s * %s * %s", over, tiles_p, tiles_q)
    local requires = launch.requires(p, d.rows + p.stride_h * s.tp * s.lp, d.window + p.stride_w * s.tq * s.lq, s.wide == 1)
    requires[#requires + 1] = { expr = string.format("%s <= 2147483647 && N * %d <= 2147483647", blocks, p.k),
                                why = "blocks and planes are counted in 31 bits" }
    if not nhwc and d.elements > 1 then
        requires[#requires + 1] = { expr = string.format("W %% %d == 0", d.elements),
                                    why = string.format("rows must be multiples of %d bytes", s.vec) }
    end
    return {
        template = "conv2d_depthwise_direct.cu.in", env = { cuda = cuda, p = p, s = s, d = d }, align = 16, requires = requires,
        workspace = "0",
        launches = { {
            suffix = "", block = { d.threads, 1, 1 }, smem = tostring(d.smem), grid = { blocks, "1", "1" },
            args = launch.args(p, { launch.arg("input"), launch.arg("weights") }, { nhwc and "N" or string.format("N * %d", p.k),
                               "H", "W", "P", "Q", tiles_p, tiles_q }),
        } },
    }
end

return depthwise_direct
