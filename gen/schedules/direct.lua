-- direct.lua: the schedule that serves every problem: FP32 FMAs on register tiles.
--
-- A block computes a tile of output channels x rows x columns of one image. It walks over the reduction in stages: `ct` input
-- channels x `rt` filter rows, whose input patch (with halo) and weights are put into shared memory as floats; each thread
-- keeps `tk` channels x `tq` columns of one output row in registers. Two ways to read the patch:
--   win=1  a thread's columns are neighbours, and one window of the patch row, in registers, serves all S taps
--   win=0  a thread's columns are `lq` apart, and each tap is read by itself; for wide or dilated filters, and 1x1
-- Where channels are innermost, neighbouring threads have neighbouring channels, which they read and write by fours if they can.
-- stage=0 does without shared memory, for filters and dilations whose patch would not fit.
-- split>1 shares the channels among as many blocks, which write partial sums that a second kernel adds in order.

local cost = require "cost"
local cuda = require "cuda"
local launch = require "launch"

local ceildiv <const>, roundup <const> = cuda.ceildiv, cuda.roundup
local min <const>, max <const> = math.min, math.max   -- hundreds of candidates: global names cost a third of the time
local ipairs <const>, occupancy <const>, launch_time <const> = ipairs, cost.occupancy, cost.launch

local direct = {}

direct.parameters = {
    { "tk", 1, 16 },     -- output channels of a thread
    { "tq", 1, 16 },     -- output columns of a thread
    { "lk", 1, 64 },     -- threads along the output channels
    { "lq", 1, 64 },     -- threads along the columns
    { "tp", 1, 64 },     -- rows of a block: one thread each
    { "gt", 1, 64 },     -- groups of a block
    { "ct", 1, 256 },    -- input channels (of each group) of a stage
    { "rt", 1, 65535 },  -- filter rows of a stage
    { "win", 0, 1 },
    { "stage", 0, 1 },
    { "split", 1, 64 },
    { "flat", 0, 1 },    -- the image as one row: for 1x1 filters, whose pixels have no neighbours
    { "wide", 0, 1 },    -- 64-bit offsets within an image
}

local STATIC_SMEM <const> = 48 * 1024  -- beyond this a block's shared memory costs too much occupancy to be worth it
local MOST_WINDOW <const> = 40         -- registers of a window
local MOST_UNROLLED <const> = 1200     -- FMAs of an unrolled loop body: NVRTC takes about 0.1 ms for each

function direct.applies() return true end

-- The largest power of two that is not above n.
local function power_of_two(n)
    local power = 1
    while power * 2 <= n do power = power * 2 end
    return power
end

-- A copy of the parameters with another ct, rt, stage or split.
local function with(s, changes)
    return { tk = s.tk, tq = s.tq, lk = s.lk, lq = s.lq, tp = s.tp, gt = s.gt, ct = changes.ct or s.ct,
             rt = changes.rt or s.rt, win = s.win, stage = changes.stage or s.stage, split = changes.split or s.split,
             flat = s.flat, wide = s.wide }
end

-- The patch of a stage of `ct` channels and `rt` filter rows. The names are those of `derive`.
local function patch_of(p, s, ct, rt)
    -- a patch with a single filter row or column holds only the rows or columns that are used
    local rows_apart, cols_apart = rt == 1 and 1 or p.stride_h, p.s == 1 and 1 or p.stride_w
    local rows = (s.tp - 1) * rows_apart + (rt - 1) * p.dil_h + 1
    local across = (p.s - 1) * p.dil_w + 1
    local window, cols = (s.tq - 1) * cols_apart + across, (s.lq * s.tq - 1) * cols_apart + across
    local vector = s.win == 1 and s.tq * cols_apart % 4 == 0  -- the window can be read 16 bytes at a time
    if vector then
        window = roundup(window, 4)
        cols = roundup((s.lq - 1) * s.tq * cols_apart + window, 4)
    end
    local pitch = roundup(cols, 4)
    -- Planes 4 banks apart let a warp write 8 channels x 4 columns, or read 16 bytes of each of 8 groups, without conflict.
    local plane = rows * pitch
    if s.gt * ct > 1 and (p.layout == "nhwc" or s.gt > 1) then plane = plane + (4 - plane % 32 + 32) % 32 end
    return rows, cols, window, vector, pitch, plane, rows_apart, cols_apart
end

-- Floats of a filter's column of weights in shared memory.
local function weight_pitch(kt)
    return roundup(kt, 4) + (kt >= 8 and 4 or 0)
end

-- Everything that follows from the problem's constants and the parameters, and not from N, H, W. The names are the template's.
-- (One table constructor: hundreds of candidates, and a table that grows field by field costs three times as much.)
local function derive(p, s)
    local rows, cols, window, vector, pitch, plane, rows_apart, cols_apart = patch_of(p, s, s.ct, s.rt)
    local kt, channels, w_rows = s.lk * s.tk, s.gt * s.ct, s.ct * s.rt * p.s
    local w_pitch, patch_floats, stages_c = weight_pitch(kt), channels * plane, ceildiv(p.cg, s.ct)
    local nhwc = p.layout == "nhwc"
    local registers = s.tk * s.tq + s.tk + (s.win == 1 and window or s.tq) + 30 + 16 * s.wide
    return {
        threads = s.lq * s.lk * s.tp, kt = kt, tile_q = s.lq * s.tq,
        k_of_group = s.gt > 1 and kt // s.gt or kt,         -- output channels of one group in the tile
        tiles_k = s.gt > 1 and ceildiv(p.groups, s.gt) or p.groups * ceildiv(p.kg, kt),
        stages_c = stages_c, stages_r = ceildiv(p.r, s.rt),
        chunks = ceildiv(stages_c, s.split),                -- channel stages of one split
        row_step = s.rt == 1 and p.stride_h or 1,           -- image rows between two patch rows
        col_step = p.s == 1 and p.stride_w or 1,
        rows_apart = rows_apart, cols_apart = cols_apart,   -- patch rows between two output rows
        rows = rows, cols = cols, pitch = pitch, plane = plane, channels = channels,
        window = window, vector = vector,
        -- neighbouring channels are read or written by fours
        input_fours = nhwc and s.stage == 1 and s.ct % 4 == 0 and p.cg % 4 == 0,
        output_fours = nhwc and s.split == 1 and s.tk % 4 == 0 and p.kg % 4 == 0,
        w_rows = w_rows, w_pitch = w_pitch, patch_floats = patch_floats,
        smem = s.stage == 1 and 4 * (patch_floats + w_rows * w_pitch) or 0,
        registers = min(roundup(registers, 8), 255),
    }
end

local shape <const> = launch.remember(derive)

local MOST_PIXELS <const> = launch.MOST_PIXELS

-- Rows and columns of the image may be taken as one row.
local function can_flatten(p)
    return p.r == 1 and p.s == 1 and p.stride_h == 1 and p.stride_w == 1 and
           p.pad_top + p.pad_left + p.pad_bottom + p.pad_right == 0
end

function direct.check(p, t, s)
    local d = shape(p, s)
    if d.threads > 1024 then return string.format("lq*lk*tp = %d threads; at most 1024", d.threads) end
    if s.rt > p.r then return string.format("rt %d is more than the filter's %d rows", s.rt, p.r) end
    if s.ct > p.cg then return string.format("ct %d is more than the %d channels of a group", s.ct, p.cg) end
    if s.gt > p.groups then return string.format("gt %d is more than %d groups", s.gt, p.groups) end
    if s.gt > 1 and (d.kt % s.gt ~= 0 or d.k_of_group % s.tk ~= 0 or d.k_of_group < p.kg) then
        return string.format("a tile of %d groups needs lk*tk to be %d times a multiple of tk that holds %d channels",
                             s.gt, s.gt, p.kg)
    end
    if s.gt > 1 and s.stage == 0 then return "several groups to a tile need stage=1" end
    if s.win == 1 and s.stage == 0 then return "a window needs stage=1" end
    if s.win == 1 and (d.window > MOST_WINDOW or p.s * s.tk * s.tq > MOST_UNROLLED) then
        return string.format("a window of %d columns and %d unrolled FMAs; at most %d and %d", d.window, p.s * s.tk * s.tq,
                             MOST_WINDOW, MOST_UNROLLED)
    end
    if s.tk * s.tq > 128 then return string.format("tk*tq = %d accumulators of a thread; at most 128", s.tk * s.tq) end
    if s.split > d.stages_c then return string.format("split %d is more than %d channel stages", s.split, d.stages_c) end
    if (s.split - 1) * d.chunks >= d.stages_c then return string.format("split %d leaves a block without work", s.split) end
    if d.smem > min(STATIC_SMEM, t.smem_block) then
        return string.format("%d bytes of shared memory; at most %d", d.smem, min(STATIC_SMEM, t.smem_block))
    end
    if s.flat == 1 and not can_flatten(p) then return "flat=1 is for 1x1 filters without stride and padding" end
    if s.wide == 0 and p.wide then return "an image of 2^31 elements or more needs wide=1" end
    if occupancy(t, d.threads, d.registers, d.smem) < 1 then return "the registers of a block do not fit" end
end

-- The largest stage within a budget of shared memory: all filter rows of as many channels, else single rows. Nil if there
-- is none.
local function stage(p, s)
    local budget <const> = 6 * 1024 -- floats: several blocks with 24 KiB each run well together
    for _, rt in ipairs { p.r, 1 } do
        local rows, _, _, _, _, plane = patch_of(p, s, 1, rt)
        local floats = s.gt * plane + rt * p.s * weight_pitch(s.lk * s.tk)
        -- dilated rows between the taps would be staged for nothing: then single rows are better
        if (rt == 1 or p.dil_h == 1 or rows <= 2 * s.tp * rt) and floats <= STATIC_SMEM // 4 then
            local ct = 1
            while ct < 16 and 2 * ct <= p.cg and 2 * ct * floats <= budget and 2 * ct * rt * p.s <= 256 do ct = 2 * ct end
            if p.cg < 2 * ct and p.cg * floats <= budget and p.cg * rt * p.s <= 256 then ct = p.cg end -- no part of a stage is empty
            return with(s, { ct = ct, rt = rt, stage = 1 })
        end
    end
end

local function channels_of_thread(kg)
    if kg >= 8 then return { 8, 4 } end
    if kg >= 4 then return { 4 } end
    return { kg }
end

-- Threads along channels: enough for the group's channels and no more; several groups where a group has few.
local function channel_lanes(p, tk)
    local list, need = {}, ceildiv(p.kg, tk)
    for _, lk in ipairs { 1, 2, 4, 8, 16 } do
        if lk == 1 or lk < 2 * need then list[#list + 1] = { lk = lk, gt = 1 } end
    end
    if p.groups > 1 and need <= 2 then
        for _, gt in ipairs { 4, 8, 16 } do
            if gt < 2 * p.groups and gt <= p.groups then list[#list + 1] = { lk = gt * need, gt = gt } end
        end
    end
    return list
end

function direct.candidates(p, t)
    local list = {}
    local q, rows = p.q, p.p
    local flat = can_flatten(p) and p.p * p.q <= MOST_PIXELS and 1 or 0
    if flat == 1 then q, rows = p.p * p.q, 1 end
    local wide = p.wide and 1 or 0
    local function add(s)
        list[#list + 1] = s
        if s.stage == 0 then return end
        -- few blocks: share the reduction
        local d = shape(p, s)
        local blocks = p.n * ceildiv(rows, s.tp) * ceildiv(q, d.tile_q) * d.tiles_k
        for _, split in ipairs { 2, 4, 8, 16 } do
            if blocks * split <= 4 * t.sms and split <= d.stages_c and
               (split - 1) * ceildiv(d.stages_c, split) < d.stages_c then
                list[#list + 1] = with(s, { split = split })
            end
        end
    end
    for _, tk in ipairs(channels_of_thread(p.kg)) do
        for _, tq in ipairs(q % 7 == 0 and q <= 56 and { 8, 7, 4 } or { 8, 4 }) do
            if tq == 4 or tq < 2 * q then
                for _, lanes in ipairs(channel_lanes(p, tk)) do
                    for _, lq in ipairs { 1, 2, 4, 8, 16, 32 } do
                        for _, tp in ipairs { 1, 2, 4, 8, 16 } do
                            local threads = lq * lanes.lk * tp
                            local fits = (tp == 1 or tp < 2 * rows) and (lq == 1 or lq * tq < 2 * q)
                            if fits and (threads == 128 or threads == 256) then
                                local s = { tk = tk, tq = tq, lk = lanes.lk, gt = lanes.gt, lq = lq, tp = tp, split = 1,
                                            flat = flat, wide = wide, win = 0 }
                                -- one way to read the patch: by window if it saves reads and fits the registers
                                local window = (tq - 1) * p.stride_w + (p.s - 1) * p.dil_w + 1
                                if p.s > 1 and window <= tq + 16 and window < tq * p.s and
                                   p.s * tk * tq <= MOST_UNROLLED then s.win = 1 end
                                s = stage(p, s)
                                if s then add(s) end
                            end
                        end
                    end
                end
            end
        end
    end
    if #list == 0 then
        -- nothing fits shared memory, or the output is too small for a tile of 128 threads
        local tk = min(p.kg, 4)
        local lk = min(16, power_of_two(ceildiv(p.kg, tk)))
        local lq = max(32 // lk, power_of_two(ceildiv(q, 4)))
        local small = { tk = tk, tq = 4, lk = lk, gt = 1, lq = min(lq, 64), tp = 1, split = 1, flat = flat,
                        wide = wide, win = 0 }
        add(stage(p, small) or with(small, { ct = 1, rt = 1, stage = 0 }))
    end
    return list
end

-- No tile does better than every FMA unit busy and every byte moved once.
function direct.least_us(p, t)
    local out = p.n * p.k * p.p * p.q
    return cost.floor(t, out * p.cg * p.r * p.s, (p.n * p.c * p.h * p.w + p.k * p.cg * p.r * p.s + out) * p.bytes)
end

local SECTOR <const>, LINE <const> = 32, 128 -- bytes: what the L2 cache moves at least, and what it writes back fastest

-- Bytes that the L2 cache moves for `runs` runs of `length` neighbouring elements.
local function sectors(p, runs, length)
    return runs * roundup(length * p.bytes, SECTOR)
end

-- Instructions of a thread and wavefronts of a block, counted from the template's loops.
function direct.time(p, t, s)
    local d = shape(p, s)
    local q, rows = p.q, p.p
    if s.flat == 1 then q, rows = p.p * p.q, 1 end
    local nhwc = p.layout == "nhwc"
    local warps = ceildiv(d.threads, 32)
    local taps = s.ct * s.rt                        -- filter rows x channels of a stage
    local stages = d.chunks * d.stages_r
    local blocks = p.n * ceildiv(rows, s.tp) * ceildiv(q, d.tile_q) * d.tiles_k
    local out = p.n * p.k * p.p * p.q
    local fma = taps * p.s * s.tk * s.tq
    local weight_reads = taps * p.s * (s.tk % 4 == 0 and s.tk // 4 or s.tk)
    local counts = { blocks = blocks * s.split, threads = d.threads, registers = d.registers, smem = d.smem, stages = stages }
    local patch_bytes
    if s.stage == 1 then
        local patch_reads = taps * (s.win == 1 and (d.vector and d.window // 4 or d.window) or p.s * s.tq)
        local patch_loads = ceildiv(d.channels * d.rows * d.cols, d.threads)
        local weight_loads = ceildiv(d.w_rows * d.kt, d.threads)
        local loop = taps * (s.win == 1 and 8 or 4 + 5 * p.s)
        counts.issue = fma + weight_reads + patch_reads + loop + (d.input_fours and 4 or 9) * patch_loads + 9 * weight_loads + 40
        counts.round_trips = ceildiv(patch_loads, d.input_fours and 32 or 8) + ceildiv(ceildiv(d.w_rows, 8), 16) * ceildiv(d.kt * 8, d.threads)
        -- a 16-byte read of a whole warp is up to 4 wavefronts; lanes that read the same word share it
        local weight_waves = s.tk % 4 == 0 and min(4, max(1, s.lk // 4)) or 1
        local patch_waves = s.win == 0 and min(8, d.cols_apart) or d.vector and min(4, max(1, s.lq // 2)) or 2
        counts.wavefronts = warps * (weight_reads * weight_waves + patch_reads * patch_waves + 2 * (patch_loads + weight_loads))
        patch_bytes = nhwc and sectors(p, s.gt * d.rows * d.cols, s.ct * (s.ct == p.cg and s.gt or 1)) or
                      sectors(p, d.channels * d.rows, d.cols * d.col_step)
        if nhwc and s.ct == p.cg then patch_bytes = patch_bytes // s.gt end
        patch_bytes = patch_bytes + sectors(p, d.kt * (s.rt == p.r and 1 or s.ct), s.rt == p.r and d.w_rows or s.rt * p.s)
    else
        counts.issue = taps * p.s * (s.tk * s.tq + 8 * s.tq + 4 * s.tk + 12)
        counts.round_trips = taps * p.s
        counts.wavefronts = warps * taps * p.s * (s.tq + s.tk) * 4
        patch_bytes = taps * p.s * sectors(p, nhwc and d.tile_q * s.tp or s.tp, nhwc and 1 or d.tile_q * p.stride_w)
    end
    -- A store instruction takes as many steps as it touches sectors. `run` lanes are neighbours, each `apart` bytes behind the last.
    -- Sectors that a thread's stores fill take half as long in whole lines, and more in parts of lines.
    local run, apart = min(32, nhwc and s.lk or s.lq), (nhwc and s.tk or s.win == 1 and s.tq or 1) * p.bytes
    local touched = min(32, ceildiv(32, run) * ceildiv(run * apart, SECTOR))
    if (d.output_fours and s.tk == 4 or not nhwc and s.win == 1) and run * apart >= SECTOR then
        touched = 0.5 * touched * max(1, (LINE / (run * apart)) ^ 0.5)
    end
    counts.once = s.tk * s.tq * (d.output_fours and 4 or 7) + 150
    counts.store_steps = warps * s.tk * s.tq / (d.output_fours and 4 or 1) * touched
    local stored = nhwc and sectors(p, blocks * d.tile_q * s.tp, d.kt) or sectors(p, blocks * d.kt * s.tp, d.tile_q)
    counts.bytes = (p.n * p.c * p.h * p.w + p.k * p.cg * p.r * p.s + out) * p.bytes
    counts.l2_bytes = blocks * s.split * stages * patch_bytes + stored
    local us = launch_time(t, counts)
    if s.split > 1 then
        us = us + launch_time(t, { blocks = ceildiv(out, 256), threads = 256, registers = 32, smem = 0, stages = 1,
                                   issue = 40 + 4 * s.split, once = 0, wavefronts = 0, store_steps = 0,
                                   round_trips = ceildiv(s.split, 4), bytes = 0, l2_bytes = out * (8 * s.split + p.bytes) })
    end
    return us
end

function direct.explain(p, s)
    local d = shape(p, s)
    local text = string.format("%d channels x %d rows x %d columns a block of %d threads, %dx%d outputs a thread in registers",
                               d.kt, s.tp, d.tile_q, d.threads, s.tk, s.tq)
    if s.stage == 1 then
        text = text .. string.format("; a stage of %d channels x %d filter rows in %d bytes of shared memory", d.channels,
                                     s.rt, d.smem)
    else
        text = text .. "; operands straight from global memory"
    end
    if s.split > 1 then text = text .. string.format("; channels split in %d", s.split) end
    return text
end

-- A power of two, 8 to 32, of lanes along a run of `length` elements that wastes the fewest lanes.
local function lanes_for(length, threads)
    local best, waste = 32, math.huge
    for _, lanes in ipairs { 32, 16, 8 } do
        local wasted = roundup(length, lanes) / length
        if threads % lanes == 0 and wasted < waste - 0.1 then best, waste = lanes, wasted end
    end
    return best
end

function direct.launch(p, t, s)
    local d = shape(p, s)
    local H, W, P, Q = "H", "W", "P", "Q"
    if s.flat == 1 then H, W, P, Q = "1", "H * W", "1", "P * Q" end
    local tiles_p, tiles_q = string.format("ceildiv(%s, %d)", P, s.tp), string.format("ceildiv(%s, %d)", Q, d.tile_q)
    local tensor = string.format("N * P * Q * %d", p.k)

    local args = { { kind = "input" }, { kind = "weights" } }
    local epilogue_args = {}
    if p.bias then epilogue_args[#epilogue_args + 1] = { kind = "bias" } end
    if p.residual then epilogue_args[#epilogue_args + 1] = { kind = "residual" } end
    local function append(list, more) for _, each in ipairs(more) do list[#list + 1] = each end end
    if s.split == 1 then
        append(args, epilogue_args)
        append(args, { { kind = "output" } })
    else
        append(args, { { kind = "workspace", expr = "0" } })
    end
    append(args, { { kind = "i32", expr = H }, { kind = "i32", expr = W }, { kind = "i32", expr = P },
                   { kind = "i32", expr = Q }, { kind = "i32", expr = tiles_p }, { kind = "i32", expr = tiles_q } })
    if s.split > 1 then append(args, { { kind = "i64", expr = tensor } }) end

    local launches = { {
        suffix = "", args = args, smem = tostring(d.smem), block = { d.threads, 1, 1 },
        grid = { string.format("N * %s * %s * %d", tiles_p, tiles_q, d.tiles_k), tostring(s.split), "1" },
    } }
    if s.split > 1 then
        local sum = { { kind = "workspace", expr = "0" } }
        append(sum, epilogue_args)
        append(sum, { { kind = "output" }, { kind = "i64", expr = "P * Q" }, { kind = "i64", expr = tensor } })
        launches[2] = { suffix = "_sum", args = sum, smem = "0", block = { 256, 1, 1 }, overlap = t.overlaps,
                        grid = { string.format("ceildiv(%s, 256)", tensor), "1", "1" } }
    end

    local requires
    if s.flat == 1 then
        requires = { { expr = string.format("H * W <= %d", MOST_PIXELS), why = "a plane must stay below 2^30 pixels" } }
        if s.wide == 0 then requires[2] = launch.narrow(p) end
    else
        requires = launch.requires(p, p.dil_h * p.r * 2, p.dil_w * p.s * 2, s.wide == 1)
    end

    return {
        template = "conv2d_direct.cu.in",
        env = {
            cuda = cuda, p = p, s = s, d = d,
            load_lanes = lanes_for(d.cols, d.threads),
            channel_lanes = power_of_two(min(d.input_fours and d.channels // 4 or d.channels, 32)),
            unroll_taps = p.r * p.s * s.tk * s.tq <= MOST_UNROLLED and s.rt == p.r,
            roll_s = p.s * s.tk * s.tq > MOST_UNROLLED,
            overlaps = t.overlaps,
            several_stages = d.chunks * d.stages_r > 1,
        },
        requires = requires, align = (d.input_fours or d.output_fours) and 4 * p.bytes or p.bytes, launches = launches,
        workspace = s.split > 1 and string.format("%s * %d", tensor, 4 * s.split) or "0",
    }
end

return direct
