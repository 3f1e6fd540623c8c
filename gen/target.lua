-- target.lua: limits and features of each architecture. Data only; times and decisions are cost.lua's.
--
-- Sources: CUDA C++ Programming Guide, "Compute Capabilities" (technical specifications per compute capability);
-- multiprocessor counts and clocks are those of the largest common product, and only matter where no device was asked.

local strict = require "strict"

local KIB <const> = 1024

-- smem_block: dynamic shared memory that a block may ask for; smem_sm: of one multiprocessor (each block also takes
-- smem_reserved); fma: FP32 FMAs, and mma: FLOP of mma.sync with 16-bit operands, a clock and multiprocessor; clock in Hz;
-- bandwidth of device memory and of the L2 cache in bytes a second.
local architectures = {
    sm_80  = { smem_block = 163 * KIB, smem_sm = 164 * KIB, warps_sm = 64, blocks_sm = 32, fma = 64, mma = 2048, sms = 108,
               clock = 1.41e9, bandwidth = 1.55e12, l2_bandwidth = 4.0e12 },
    sm_86  = { smem_block = 99 * KIB,  smem_sm = 100 * KIB, warps_sm = 48, blocks_sm = 16, fma = 128, mma = 512,  sms = 84,
               clock = 1.70e9, bandwidth = 0.94e12, l2_bandwidth = 2.5e12 },
    sm_89  = { smem_block = 99 * KIB,  smem_sm = 100 * KIB, warps_sm = 48, blocks_sm = 24, fma = 128, mma = 512,  sms = 128,
               clock = 2.50e9, bandwidth = 1.01e12, l2_bandwidth = 4.0e12 },
    sm_90  = { smem_block = 227 * KIB, smem_sm = 228 * KIB, warps_sm = 64, blocks_sm = 32, fma = 128, mma = 2460, sms = 132,
               clock = 1.75e9, bandwidth = 4.29e12, l2_bandwidth = 5.5e12 },
    sm_100 = { smem_block = 227 * KIB, smem_sm = 228 * KIB, warps_sm = 64, blocks_sm = 32, fma = 128, mma = 2460, sms = 148,
               clock = 1.85e9, bandwidth = 7.0e12, l2_bandwidth = 9.0e12 },
    sm_120 = { smem_block = 99 * KIB,  smem_sm = 100 * KIB, warps_sm = 48, blocks_sm = 24, fma = 128, mma = 512,  sms = 170,
               clock = 2.40e9, bandwidth = 1.70e12, l2_bandwidth = 6.0e12 },
}
-- The letter unlocks wgmma and setmaxnreg; the limits are the same.
architectures.sm_90a = strict.with(architectures.sm_90, {})

local target = {}

-- All names, sorted.
function target.names()
    local names = {}
    for name in strict.sorted(architectures) do names[#names + 1] = name end
    return names
end

function target.known(arch)
    return architectures[arch] ~= nil
end

-- The limits of target.arch, with the number of multiprocessors of the device where one is known. overlaps: a launch may begin
-- while the one before it still runs.
function target.of(given)
    local limits = architectures[given.arch]
    if not limits then
        error({ status = "invalid", message = "unknown architecture '" .. tostring(given.arch) .. "'; known: " ..
                table.concat(target.names(), " ") })
    end
    local sms = limits.sms
    if given.sms and given.sms > 0 then sms = given.sms end
    return strict.seal(strict.with(limits, { arch = given.arch, sms = sms, smem_reserved = KIB, registers_sm = 65536,
                                              overlaps = tonumber(string.match(given.arch, "%d+")) >= 90 }), "target")
end

return target
