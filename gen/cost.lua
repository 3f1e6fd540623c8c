-- cost.lua: predicted time of (problem, schedule, target), in microseconds.
--
-- A schedule describes what one of its launches does as counts (see cost.launch); the rest is a model of the hardware with
-- these limits: issue slots and shared-memory wavefronts of a multiprocessor, the latency of a block's stages, device
-- memory and the L2 cache, and whole waves of blocks. The constants are fitted to measurements on an H200.
-- It only has to put candidates in the right order.

local cost = {}

local min <const>, max <const>, ceil <const> = math.min, math.max, math.ceil   -- called for each of hundreds of candidates

local LAUNCH_US <const> = 2.5        -- from the call to the first instruction, and from the last to the end of the kernel
local WARPS_TO_HIDE <const> = 18     -- warps a multiprocessor needs so that arithmetic latencies overlap with issue
local ROUND_TRIP <const> = 600       -- clocks of a global load, under load
local STORE_STEP <const> = 2.0       -- clocks for a sector of a store instruction
local OVERLAP_LOSS <const> = 0.3     -- the part of the shorter of arithmetic and memory time that adds to the longer

-- Blocks of `threads` threads, `registers` each and `smem` bytes, that are resident on one multiprocessor at a time.
function cost.occupancy(target, threads, registers, smem)
    local warps = (threads + 31) // 32
    local by_registers = target.registers_sm // (warps * 32 * ((registers + 7) // 8 * 8))
    local by_smem = target.smem_sm // (smem + target.smem_reserved)
    return min(by_registers, by_smem, target.warps_sm // warps, target.blocks_sm)
end

-- Of the multiprocessors, those that clusters of a size can fill: each lies within one of the 7 or 8 groups of about 16.
local FILLED <const> = { 1.0, 1.0, 0.88, 0.91, 0.83, 0.77, 0.79, 0.91 }

-- How many multiprocessors clusters of so many blocks can be on at a time, one block on each.
function cost.filled(target, size)
    return size * max(1, FILLED[size] * target.sms // size)
end

-- Seconds of arithmetic and of memory in one launch; their overlap is never perfect.
local function together_us(compute, memory)
    return LAUNCH_US + 1e6 * (max(compute, memory) + OVERLAP_LOSS * min(compute, memory))
end

-- launch: { blocks, threads, registers, smem,
--           stages = rounds of load, barrier, compute that a block goes through,
--           issue = instructions that each thread issues in a stage, once = and outside of the stages,
--           wavefronts = shared-memory wavefronts of a block in a stage,
--           store_steps = sectors that the block's store instructions touch, one by one,
--           round_trips = dependent batches of global loads in a stage,
--           bytes = device-memory bytes of the whole launch, l2_bytes = bytes that blocks move from and to the L2 cache }
function cost.launch(target, launch)
    local resident = cost.occupancy(target, launch.threads, launch.registers, launch.smem)
    if resident < 1 then return math.huge end
    local warps = (launch.threads + 31) // 32
    local per_sm = ceil(launch.blocks / target.sms)  -- blocks that the busiest multiprocessor runs
    local together = min(resident, per_sm)
    local issue_rate = target.fma / 32                    -- warp instructions a clock
    -- A stage takes as long as all resident blocks' instructions, or as one block's own dependent steps.
    local work = max(warps * launch.issue / issue_rate, launch.wavefronts)
    local alone = launch.round_trips * ROUND_TRIP + work * max(1.0, WARPS_TO_HIDE / warps)
    local stage = max(together * work, alone)
    local once = together * max(warps * launch.once / issue_rate, launch.store_steps * STORE_STEP) + ROUND_TRIP
    local clocks = per_sm / together * (launch.stages * stage + once)
    local compute = clocks / target.clock
    return together_us(compute, max(launch.bytes / target.bandwidth, launch.l2_bytes / target.l2_bandwidth))
end

-- A launch of that many FMAs (by the ordinary units) and bytes of device memory has no less than this predicted.
function cost.floor(target, fmas, bytes)
    return together_us(fmas / (target.fma * target.sms * target.clock), bytes / target.bandwidth)
end

return cost
