-- generate.lua: the generator as a function: purity, refusals, and that N, H and W never reach the source.

local init <const> = require "init"
local problem <const> = require "problem"
local schedule <const> = require "schedule"
local strict <const> = require "strict"
local target <const> = require "target"
local cuda <const> = require "cuda"

local base <const> = {
    n = 8, c = 64, h = 40, w = 50, k = 128, r = 5, s = 7, stride_h = 1, stride_w = 1, pad_top = 0, pad_left = 0,
    pad_bottom = 0, pad_right = 0, dil_h = 1, dil_w = 1, groups = 1, math = "f32", layout = "nchw",
    weights_layout = "kcrs", activation = "identity", alpha = 0.0, beta = 0.0, bias = false, residual = false,
}
local device <const> = { arch = "sm_90", sms = 132 }

local function with(changes) return strict.with(base, changes) end

-- The message of the refusal, or nil if there was none.
local function refusal(status, f, ...)
    local ok, thrown = pcall(f, ...)
    if not ok and type(thrown) == "table" and thrown.status == status then return thrown.message end
end
local function refuses(part, changes, wanted)
    local message = refusal("invalid", init.generate, with(changes), device, wanted)
    return message ~= nil and string.find(message, part, 1, true) ~= nil
end

-- ---- Purity ----

local first <const> = init.generate(base, device, "direct")
check("the same input gives the same bytes", init.generate(base, device, "direct").source == first.source)
check("the source names its problem", string.find(first.source, "problem   c64k128r5s7 ", 1, true) ~= nil)
check("the entry is in the source", string.find(first.source, first.launches[1].entry .. "(", 1, true) ~= nil)
check("no asm outside the primitives",
      not string.find(string.match(first.source, "#endif  // CONVJIT_EMU(.*)$"), "asm", 1, true))
check("no #include", not string.find(first.source, "#include", 1, true))
for _, sizes in ipairs { { n = 1 }, { h = 5, w = 7 }, { n = 100, h = 300, w = 77 } } do
    check("N, H and W do not reach the source",
          init.generate(with(sizes), device, first.schedule).source == first.source)
end
check("the architecture does", init.generate(base, { arch = "sm_80", sms = 0 }, first.schedule).source ~= first.source)
check("a full specification is taken as it is", init.generate(base, device, first.candidates[3].schedule).schedule ==
      first.candidates[3].schedule)
check("candidates come in order", (function()
    for i = 2, #first.candidates do
        if first.candidates[i].predicted_us < first.candidates[i - 1].predicted_us then return false end
    end
    return #first.candidates > 10
end)())

-- ---- Schedules that are not looked at ----

local function predicted(changes, wanted)
    return init.generate(with(changes), { arch = "sm_90a", sms = 132 }, wanted).candidates
end
for name, changes in strict.sorted {
    large = { math = "f16" }, small = { n = 1, h = 14, w = 14, r = 3, s = 3 }, pointwise = { r = 1, s = 1, layout = "nhwc" },
    grouped = { groups = 32 }, depthwise = { groups = 64, k = 64, r = 7, s = 7 }, strided = { stride_h = 2, stride_w = 3, n = 64 },
} do
    local least = schedule.module("direct").least_us(problem.of(with(changes)), target.of { arch = "sm_90a" })
    local listed = predicted(changes, "direct")
    check("a least time is one: " .. name, least > 0 and least <= listed[1].predicted_us)
    check("a schedule by its name hides nothing: " .. name, (function()
        for _, each in ipairs(listed) do
            if not string.find(each.schedule, "^direct:") then return false end
        end
        return true
    end)())
end
check("a schedule that cannot win has one line", (function()
    local all, lines = predicted { math = "f16", n = 64, h = 56, w = 56 }, 0
    for _, each in ipairs(all) do
        if string.find(each.schedule, "^direct") then lines = each.schedule == "direct" and lines + 1 or 99 end
    end
    return lines == 1 and all[1].predicted_us < all[#all].predicted_us
end)())
check("more candidates than are listed have one line", (function()
    local all = predicted { groups = 16, n = 64 }
    local listed, named = 0, {}
    for _, each in ipairs(all) do
        if string.find(each.schedule, ":", 1, true) then
            listed = listed + 1
        elseif named[each.schedule] then
            return false
        else
            named[each.schedule] = true
        end
    end
    return listed == 20 and named.direct and all[#all].schedule == "direct" and all[#all].predicted_us >= all[#all - 1].predicted_us
end)())

-- ---- Every field matters ----

local seen = { [first.source] = "base" }
for name, value in strict.sorted { c = 65, k = 129, r = 3, s = 3, stride_h = 2, stride_w = 2, pad_top = 1, pad_left = 1,
                                   dil_h = 2, dil_w = 2, groups = 2, math = "f16", layout = "nhwc", activation = "relu",
                                   bias = true, residual = true } do
    local source = init.generate(with { [name] = value }, device).source
    check(name .. " changes the source", seen[source] == nil)
    seen[source] = name
end
for _, name in ipairs { "relu", "leaky_relu", "silu", "gelu", "hardswish", "sigmoid", "tanh", "clamp" } do
    local kernel = init.generate(with { activation = name, alpha = -1.5, beta = 6.0 }, device)
    check(name .. " is in the source", string.find(kernel.source, "float activate(float v)", 1, true) ~= nil)
end

-- ---- Refusals ----

check("an unknown architecture", string.find(refusal("invalid", init.generate, base, { arch = "sm_61", sms = 0 }) or "",
                                             "unknown architecture 'sm_61'; known: sm_100 sm_120 sm_80", 1, true) ~= nil)
check("a size of 0", refuses("h is 0; at least 1", { h = 0 }))
check("a negative padding", refuses("pad_left is -1; at least 0", { pad_left = -1 }))
check("groups that do not divide", refuses("groups 3 does not divide c 64", { groups = 3 }))
check("a filter larger than the input", refuses("larger than the padded input", { h = 4 }))
check("an unknown schedule", refuses("unknown schedule 'fast'; known: ", {}, "fast"))
check("a missing parameter", refuses("parameter tq is missing", {}, "direct:tk=8"))
check("an unknown parameter", refuses("no parameter 'zz'", {}, first.schedule .. ",zz=1"))
check("a parameter twice", refuses("tk is given twice", {}, first.schedule .. ",tk=1"))
check("a parameter out of range", refuses("tk is 99; 1 to 16", {}, (string.gsub(first.schedule, "tk=%d+", "tk=99"))))
check("a parameter that is no number", refuses("not of the form", {}, "direct:tk=x"))
check("too many threads", refuses("at most 1024", {}, "direct:tk=1,tq=1,lk=64,lq=64,tp=1,gt=1,ct=1,rt=1,win=0,stage=1,split=1,flat=0,wide=0"))
check("a split without work", refuses("split", {}, "direct:tk=1,tq=1,lk=4,lq=32,tp=1,gt=1,ct=16,rt=1,win=0,stage=1,split=3,flat=0,wide=0"))

-- ---- wgmma ----

local hopper <const> = { arch = "sm_90a", sms = 132 }
for _, mode in ipairs { "f32", "tf32", "f16", "bf16" } do
    for _, layout in ipairs { "nchw", "nhwc" } do
        local kernel = init.generate(with { n = 64, h = 56, w = 56, r = 3, s = 3, math = mode, layout = layout }, hopper)
        check("wgmma serves dense layers: " .. mode .. " " .. layout, string.find(kernel.schedule, "^wgmma:") ~= nil)
        check("its launches come in order", kernel.launches[#kernel.launches].entry == kernel.name and
              kernel.launches[1].entry == kernel.name .. "_pack")
        check("weights are packed by a launch of their own", kernel.launches[1].packs and kernel.packed ~= nil)
        check("what is behind it overlaps it", not kernel.launches[1].overlap and kernel.launches[#kernel.launches].overlap)
        check("nchw is transposed first", (#kernel.launches == 3) == (layout == "nchw"))
        for _, sizes in ipairs { { n = 1 }, { h = 30, w = 90 } } do
            local changed = strict.with({ n = 64, h = 56, w = 56, r = 3, s = 3, math = mode, layout = layout }, sizes)
            check("N, H and W do not reach its source",
                  init.generate(with(changed), hopper, kernel.schedule).source == kernel.source)
        end
    end
end
do
    local function rectangle(box, changes)
        local specification = "wgmma:wm=1,tp=29,sq=1,ni=1,cb=128,lw=58,split=1,box=" .. box
        return init.generate(with(strict.with({ n = 64, c = 64, h = 56, w = 56, k = 64, r = 3, s = 3, math = "f16", layout = "nchw" }, changes)),
                             hopper, specification)
    end
    local function demands(kernel, why)
        for _, requirement in ipairs(kernel.requires) do
            if requirement.why == why then return true end
        end
        return false
    end
    local x_rows, x_planes = "rows must be multiples of 16 bytes", "planes must be multiples of 16 bytes"
    local y_rows = "rows of the output must be multiples of 16 bytes"
    check("boxes of pixels are transposed first", #rectangle(1, {}).launches == 3)
    check("boxes of planes are not", #rectangle(2, {}).launches == 2 and #rectangle(3, {}).launches == 2)
    check("they demand rows", demands(rectangle(2, {}), x_rows) and not demands(rectangle(2, {}), x_planes))
    check("whole lines demand planes", demands(rectangle(3, {}), x_planes) and demands(rectangle(3, {}), "a tile must hold whole lines"))
    check("outputs are stored as boxes", demands(rectangle(2, {}), y_rows))
    check("with a residual they are not", not demands(rectangle(2, { residual = true }), y_rows))
    local thin = { n = 64, c = 64, h = 56, w = 56, k = 64, r = 3, s = 3, pad_top = 1, pad_left = 1, pad_bottom = 1, pad_right = 1,
                   math = "f16", layout = "nchw" }
    check("and they win", string.find(init.generate(with(thin), hopper).schedule, "lw=58,split=1,box=[23]") ~= nil)
end
local function why_not(changes, arch)
    for _, refused in ipairs(init.generate(with(changes), { arch = arch, sms = 0 }).refused) do
        if refused.schedule == "wgmma" then return refused.why end
    end
    return ""
end
check("wgmma is for sm_90a", string.find(why_not({}, "sm_90"), "sm_90a", 1, true) ~= nil)
check("wgmma is for one group", string.find(why_not({ groups = 2 }, "sm_90a"), "group", 1, true) ~= nil)
check("a schedule that has no tiles for some sizes says so",
      string.find(why_not({ n = 1, c = 192, h = 7, w = 7, k = 48, r = 7, s = 7, math = "f16", layout = "nhwc" }, "sm_90a"), "tiles", 1, true) ~= nil)
for specification, part in strict.sorted {
    ["wm=2,tp=32,sq=4,ni=1,cb=128,lw=0,split=1,box=0"] = "accumulators of a thread; at most 80",
    ["wm=2,tp=4,sq=2,ni=1,cb=128,lw=0,split=4,box=0"] = "2 rounds through the channels for 4 blocks",
    ["wm=2,tp=4,sq=2,ni=1,cb=128,lw=0,split=1,box=1"] = "boxes of pixels are of one part",
    ["wm=2,tp=4,sq=1,ni=2,cb=128,lw=0,split=1,box=2"] = "boxes of planes are of one image",
    ["wm=2,tp=4,sq=1,ni=1,cb=128,lw=0,split=1,box=3"] = "whole lines are of rectangles",
    ["wm=2,tp=4,sq=1,ni=1,cb=128,lw=40,split=1,box=2"] = "a tile of less than a line",
    ["wm=2,tp=4,sq=2,ni=1,cb=128,lw=6,split=1,box=0"] = "lines shorter than the filter",
    ["wm=1,tp=4,sq=1,ni=1,cb=128,lw=0,split=1,box=0"] = "1 strips for 2 warpgroups",
} do
    local message = refusal("invalid", init.generate, base, hopper, "wgmma:" .. specification) or ""
    check("wgmma refuses " .. specification .. ": " .. message, string.find(message, part, 1, true) ~= nil)
end

for _, case in ipairs { { layout = "nhwc", math = "f16", launches = 1 }, { layout = "nchw", math = "tf32", launches = 2 },
                        { layout = "nhwc", math = "f32", launches = 2 }, { layout = "nhwc", math = "bf16", c = 60, launches = 3 } } do
    local changes = strict.with(case, { weights_layout = "krsc" })
    local launches = case.launches
    changes.launches = nil
    local kernel = init.generate(with(changes), hopper, "wgmma")
    local packs = kernel.launches[1].packs == true
    check("krsc weights are packed only to be split or padded: " .. problem.tuple(problem.of(with(changes))),
          #kernel.launches == launches and packs == (case.math == "f32" or case.c == 60) and packs == (kernel.packed ~= nil))
end

-- ---- mma ----

for _, arch in ipairs { "sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100", "sm_120" } do
    local tensor_cores = { arch = arch, sms = 0 }
    local small = with { n = 1, c = 256, h = 14, w = 14, k = 256, r = 3, s = 3, math = "f16" }
    local kernel = init.generate(small, tensor_cores, "mma")
    check("mma splits the reduction of few pixels on " .. arch, not string.find(kernel.schedule, "split=1,", 1, true))
    local main, last
    for _, each in ipairs(kernel.launches) do
        if each.entry == kernel.name then main = each end
        last = each.entry
    end
    local clusters = arch ~= "sm_80" and arch ~= "sm_86" and arch ~= "sm_89"
    check("in clusters and overlapping launches, where there are any", (main.cluster ~= nil) == clusters and
          (main.overlap == true) == clusters)
    check("or with a launch that sums", (last == kernel.name .. "_sum") ~= clusters)
    check("N, H and W do not reach its source", init.generate(with { n = 3, c = 256, h = 9, w = 31, k = 256, r = 3, s = 3, math = "f16" },
                                                              tensor_cores, kernel.schedule).source == kernel.source)
end
check("channels innermost and a filter of one tap need no preparation",
      #init.generate(with { r = 1, s = 1, layout = "nhwc" }, device, "mma:tk=64,tp=64,wk=2,wp=2,stages=4,split=1,cluster=0,raw=0").launches == 1)
check("nor do weights whose channels are innermost", #init.generate(with { layout = "nhwc", weights_layout = "krsc" }, device, "mma").launches == 1)
local function mma_refuses(part, parameters, changes)
    local message = refusal("invalid", init.generate, with(changes or {}), device, "mma:" .. parameters)
    return message ~= nil and string.find(message, part, 1, true) ~= nil
end
check("mma: too many accumulators", mma_refuses("at most 128", "tk=128,tp=128,wk=2,wp=2,stages=2,split=1,cluster=0,raw=0"))
check("mma: warps that do not share a tile", mma_refuses("in sixteens", "tk=48,tp=64,wk=2,wp=2,stages=2,split=1,cluster=0,raw=0"))
check("mma: too much shared memory", mma_refuses("bytes of shared memory", "tk=128,tp=128,wk=2,wp=4,stages=8,split=1,cluster=0,raw=0"))
check("mma: more parts than slices", mma_refuses("not split among", "tk=64,tp=64,wk=2,wp=2,stages=2,split=64,cluster=0,raw=0"))
check("mma: a cluster of one", mma_refuses("no cluster of 1", "tk=64,tp=64,wk=2,wp=2,stages=2,split=1,cluster=1,raw=0"))
check("mma: weights that are in order", mma_refuses("need no other order", "tk=64,tp=64,wk=2,wp=2,stages=2,split=1,cluster=0,raw=1",
                                                    { weights_layout = "krsc" }))
check("mma: groups of few channels", mma_refuses("groups of 8 channels", "tk=64,tp=64,wk=2,wp=2,stages=2,split=1,cluster=0,raw=0",
                                                 { groups = 8 }))

-- ---- grouped ----

local resnext <const> = { n = 64, c = 256, h = 56, w = 56, k = 256, r = 3, s = 3, pad_top = 1, pad_left = 1, pad_bottom = 1,
                          pad_right = 1, groups = 32 }
for _, mode in ipairs { "f32", "tf32", "f16", "bf16" } do
    for _, layout in ipairs { "nchw", "nhwc" } do
        local layer = strict.with(resnext, { math = mode, layout = layout })
        for _, arch in ipairs(target.names()) do
            check("grouped can serve it: " .. mode .. " " .. layout .. " " .. arch,
                  #init.generate(with(layer), { arch = arch, sms = 0 }, "grouped").source > 1000)
        end
        local kernel = init.generate(with(layer), device)
        check("grouped serves it: " .. mode .. " " .. layout, string.find(kernel.schedule, "^grouped:") ~= nil)
        for _, sizes in ipairs { { n = 1 }, { h = 30, w = 96 } } do
            check("N, H and W do not reach its source",
                  init.generate(with(strict.with(layer, sizes)), device, kernel.schedule).source == kernel.source)
        end
    end
end
local function grouped_refusal(changes)
    local message = refusal("unsupported", init.generate, with(strict.with(resnext, changes)), device, "grouped")
    return message and string.match(message, "grouped: (.*)") or ""
end
check("grouped is not for one group", string.find(grouped_refusal { groups = 1 }, "dense") ~= nil)
check("nor for depthwise layers", string.find(grouped_refusal { groups = 256 }, "one channel a group", 1, true) ~= nil)
check("nor for many channels", string.find(grouped_refusal { c = 512, groups = 2 }, "256 channels a group; at most 128", 1, true) ~= nil)
check("nor for short exact sums", string.find(grouped_refusal { r = 1, s = 1, pad_top = 0 }, "8 products", 1, true) ~= nil)
check("a vector that W is no multiple of is left out", (function()
    local odd = init.generate(with(strict.with(resnext, { w = 57, math = "f16" })), device, "grouped")
    local even = init.generate(with(strict.with(resnext, { math = "f16" })), device, "grouped")
    return string.find(odd.schedule, "vec=1,", 1, true) and string.find(even.schedule, "vec=4,", 1, true) and
           #even.requires == #odd.requires + 1
end)())

-- ---- few_channels ----

local thin <const> = { n = 64, c = 3, h = 224, w = 224, k = 64, r = 7, s = 7, stride_h = 2, stride_w = 2, pad_top = 3,
                       pad_left = 3, pad_bottom = 3, pad_right = 3 }
for _, mode in ipairs { "f32", "tf32", "f16", "bf16" } do
    for _, layout in ipairs { "nchw", "nhwc" } do
        local changes = strict.with(thin, { math = mode, layout = layout })
        local kernel = init.generate(with(changes), hopper)
        check("few_channels serves first layers: " .. mode .. " " .. layout, string.find(kernel.schedule, "^few_channels:") ~= nil)
        check("in one launch", #kernel.launches == 1 and kernel.workspace == "0")
        for _, sizes in ipairs { { n = 1 }, { h = 100, w = 301 } } do
            check("N, H and W do not reach its source",
                  init.generate(with(strict.with(changes, sizes)), hopper, kernel.schedule).source == kernel.source)
        end
    end
end
local function why_not_few(changes, arch)
    for _, refused in ipairs(init.generate(with(changes), { arch = arch, sms = 0 }).refused) do
        if refused.schedule == "few_channels" then return refused.why end
    end
    return ""
end
check("few_channels is for sm_90a", string.find(why_not_few(thin, "sm_90"), "sm_90a", 1, true) ~= nil)
check("few_channels is for 16 channels", string.find(why_not_few({ c = 17 }, "sm_90a"), "17 channels", 1, true) ~= nil)
check("few_channels is for one group", string.find(why_not_few({ c = 4, groups = 2 }, "sm_90a"), "group", 1, true) ~= nil)
check("short exact sums are left to FMAs", string.find(why_not_few({ c = 3, r = 3, s = 3 }, "sm_90a"), "a sum of 27", 1, true) ~= nil)
check("a patch must fit", (function()
    local message = refusal("invalid", init.generate, with { c = 16, math = "tf32" }, hopper, "few_channels:tk=128,tp=64,tq=512,mi=1,wg=2,lg=1,nq=0")
    return message ~= nil and string.find(message, "do not fit", 1, true) ~= nil
end)())

-- ---- pointwise ----

local pixelwise <const> = { n = 64, c = 256, h = 14, w = 14, k = 1024, r = 1, s = 1 }
for _, mode in ipairs { "f32", "tf32", "f16", "bf16" } do
    for _, layout in ipairs { "nchw", "nhwc" } do
        local layer = strict.with(pixelwise, { math = mode, layout = layout })
        for _, arch in ipairs(target.names()) do
            local kernel = init.generate(with(layer), { arch = arch, sms = 0 }, "pointwise")
            check("pointwise serves it: " .. mode .. " " .. layout .. " " .. arch, string.find(kernel.schedule, "^pointwise:") ~= nil)
            check("by one launch, without workspace", #kernel.launches == 1 and kernel.workspace == "0")
        end
        local kernel = init.generate(with(layer), device, "pointwise")
        for _, sizes in ipairs { { n = 1 }, { h = 30, w = 90 } } do
            check("N, H and W do not reach its source",
                  init.generate(with(strict.with(layer, sizes)), device, kernel.schedule).source == kernel.source)
        end
    end
end
local function pointwise_refusal(changes)
    local served, message = pcall(init.generate, with(strict.with(pixelwise, changes)), device, "pointwise")
    return not served and string.match(message.message, "pointwise:?.-: (.*)") or ""
end
check("pointwise is for one pixel", string.find(pointwise_refusal { s = 2 }, "filters of one pixel", 1, true) ~= nil)
check("pointwise is for one group in nchw", string.find(pointwise_refusal { groups = 2 }, "group", 1, true) ~= nil)
check("and for many in nhwc", pointwise_refusal { groups = 2, layout = "nhwc" } == "")
check("pointwise pads nothing", string.find(pointwise_refusal { pad_left = 1 }, "padded", 1, true) ~= nil)
check("pointwise leaves short exact sums of nchw to others", string.find(pointwise_refusal { c = 16 }, "16 products", 1, true) ~= nil)
check("and takes them by FMA in nhwc", pointwise_refusal { c = 16, layout = "nhwc" } == "" and
      string.find(init.generate(with(strict.with(pixelwise, { c = 16, layout = "nhwc" })), hopper).source, "fmaf(a[", 1, true) ~= nil)

-- ---- gemm ----

for _, mode in ipairs { "f32", "tf32", "f16", "bf16" } do
    for _, layout in ipairs { "nchw", "nhwc" } do
        local layer = strict.with(pixelwise, { math = mode, layout = layout, h = 28, w = 28 })
        local kernel = init.generate(with(layer), hopper)
        check("gemm is picked: " .. mode .. " " .. layout, string.find(kernel.schedule, "^gemm:") ~= nil)
        check("it splits weights in strict f32 only", #kernel.launches == (mode == "f32" and 2 or 1))
        check("N, H and W do not reach its source",
              init.generate(with(strict.with(layer, { n = 3, h = 8 })), hopper, kernel.schedule).source == kernel.source)
    end
end
local function gemm_refusal(changes, device)
    local message = refusal("unsupported", init.generate, with(strict.with(pixelwise, changes)), device or hopper, "gemm")
    return message and string.match(message, "gemm: (.*)") or ""
end
check("gemm is for Hopper", string.find(gemm_refusal({}, { arch = "sm_100", sms = 0 }), "sm_90a", 1, true) ~= nil)
check("gemm is for one pixel", string.find(gemm_refusal { s = 2 }, "filters of one pixel", 1, true) ~= nil)
check("gemm is for one group", string.find(gemm_refusal { groups = 2 }, "group", 1, true) ~= nil)
check("gemm pads nothing", string.find(gemm_refusal { pad_left = 1 }, "padded", 1, true) ~= nil)
check("gemm's channels are copied by 16 bytes", string.find(gemm_refusal { c = 250 }, "rows of channels", 1, true) ~= nil)
check("and its filters", string.find(gemm_refusal { k = 250, layout = "nhwc", math = "f16" }, "rows of filters", 1, true) ~= nil)

check("gemm leaves short exact sums to FMAs", string.find(gemm_refusal { c = 16 }, "16 products", 1, true) ~= nil)
check("images of one pixel are rows of channels in nchw, too",
      string.find(init.generate(with(strict.with(pixelwise, { h = 1, w = 1, c = 512 })), hopper, "gemm").schedule, "one=1", 1, true) ~= nil)

-- ---- depthwise ----

local thin <const> = { n = 32, c = 144, h = 56, w = 56, k = 144, r = 3, s = 3, pad_top = 1, pad_left = 1, pad_bottom = 1, pad_right = 1,
                       groups = 144 }
for _, mode in ipairs { "f32", "tf32", "f16", "bf16" } do
    for _, layout in ipairs { "nchw", "nhwc" } do
        for _, arch in ipairs { "sm_80", "sm_90a", "sm_120" } do
            local changes = strict.with(thin, { math = mode, layout = layout })
            local picked = init.generate(with(changes), { arch = arch, sms = 0 })
            check("one channel a group goes to a depthwise schedule: " .. arch .. " " .. mode .. " " .. layout,
                  string.find(picked.schedule, "^depthwise") ~= nil and #picked.launches == 1)
            local kernel = init.generate(with(changes), { arch = arch, sms = 0 }, "depthwise")
            check("tensor copies are for sm_90 and later", arch ~= "sm_80" or string.find(kernel.schedule, ",copy=0,", 1, true) ~= nil)
            for _, each in ipairs { kernel, init.generate(with(changes), { arch = arch, sms = 0 }, "depthwise_direct") } do
                local other = init.generate(with(strict.with(changes, { n = 3, h = 28, w = 112 })), { arch = arch, sms = 0 }, each.schedule)
                check("N, H and W do not reach its source", other.source == each.source)
            end
        end
    end
end
check("a filter for each channel", (function()
    for _, refused in ipairs(init.generate(with { groups = 2 }, hopper).refused) do
        if refused.schedule == "depthwise" then return string.find(refused.why, "32 channels a group", 1, true) ~= nil end
    end
end)())
for specification, part in strict.sorted {
    ["mm=0,copy=1,tc=1,ni=1,tp=8,tq=256,rt=4,ct=4,warps=4,vec=16,stages=2,wide=0"] = "at most 256 along an axis",
    ["mm=1,copy=1,tc=1,ni=1,tp=8,tq=64,rt=16,ct=32,warps=4,vec=16,stages=2,wide=0"] = "matrices are for f16 and bf16",
    ["mm=2,copy=1,tc=8,ni=1,tp=8,tq=64,rt=4,ct=16,warps=4,vec=16,stages=2,wide=0"] = "in nhwc",
    ["mm=0,copy=1,tc=1,ni=1,tp=8,tq=64,rt=4,ct=4,warps=4,vec=8,stages=2,wide=0"] = "vec=16",
    ["mm=0,copy=0,tc=1,ni=1,tp=6,tq=64,rt=4,ct=4,warps=4,vec=8,stages=2,wide=0"] = "no multiple of rt",
    ["mm=0,copy=2,tc=5,ni=1,tp=56,tq=56,rt=4,ct=4,warps=4,vec=8,stages=2,wide=0"] = "no planes of 5 channels",
    ["mm=0,copy=4,tc=1,ni=1,tp=8,tq=56,rt=4,ct=4,warps=4,vec=8,stages=2,wide=0"] = "rows need vec=16",
} do
    local message = refusal("invalid", init.generate, with(thin), hopper, "depthwise:" .. specification)
    check("depthwise refuses: " .. part, message ~= nil and string.find(message, part, 1, true) ~= nil)
end
for specification, part in strict.sorted {
    ["tp=4,tq=4,lc=8,lq=14,lp=8,vec=16,wide=0"] = "at most 512",
    ["tp=4,tq=2,lc=1,lq=14,lp=8,vec=16,wide=0"] = "no multiple of loads of 4",
    ["tp=16,tq=16,lc=1,lq=4,lp=2,vec=16,wide=0"] = "2304 unrolled FMAs",
    ["tp=4,tq=4,lc=1,lq=14,lp=8,vec=12,wide=0"] = "a power of two",
} do
    local message = refusal("invalid", init.generate, with(thin), hopper, "depthwise_direct:" .. specification)
    check("depthwise_direct refuses: " .. part, message ~= nil and string.find(message, part, 1, true) ~= nil)
end
check("depthwise_direct keeps a filter's taps in registers",
      string.find(refusal("unsupported", init.generate, with(strict.with(thin, { r = 11, s = 11, pad_top = 5, pad_bottom = 5 })), hopper,
                          "depthwise_direct") or "", "121 taps", 1, true) ~= nil)
check("vectors along channels are no more than there are", (function()
    local odd = strict.with(thin, { c = 21, k = 21, groups = 21, layout = "nhwc", math = "f16" })
    return string.find(init.generate(with(odd), hopper, "depthwise_direct").schedule, "vec=2,", 1, true) ~= nil
end)())

-- ---- Parts ----

check("a tuple's text", problem.tuple(with { pad_top = 1, pad_bottom = 2, math = "tf32", activation = "clamp", alpha = -0.5,
                                             beta = 6.0, bias = true }) == "c64k128r5s7_pad1x0x2x0_tf32_bias_clamp-0.5x6")
check("the layout of weights is a part of it", problem.tuple(problem.of(with { weights_layout = "krsc" })) == "c64k128r5s7_krsc")
for _, same in ipairs { { r = 1, s = 1 }, { groups = 64 } } do
    local changes = strict.with(same, { weights_layout = "krsc" })
    check("unless it is the same memory", problem.tuple(problem.of(with(changes))) == problem.tuple(problem.of(with(same))))
end
check("the default slope is left out", problem.tuple(with { activation = "leaky_relu", alpha = 0.01 }) ==
      "c64k128r5s7_leaky_relu")
check("a float's shortest text", problem.float(0.1) == "0.1" and problem.float(16777216.0) == "16777216" and
      problem.float(1e-30) == "1e-30" and problem.float(-0.0) == "-0")
check("a float literal", cuda.float(6.0) == "6.0f" and cuda.float(0.25) == "0.25f" and cuda.float(1e-30) == "1e-30f")
check("an identifier", cuda.identifier("a-1.5x1e+20") == "am1p5x1e20")
check("only the primitives that are named", cuda.primitives("f16_to_f32(x)") ~= "" and
      not string.find(cuda.primitives("f16_to_f32(x)"), "f32_to_f16", 1, true) and cuda.primitives("my_f16_to_f32x") == "")
check("a schedule's text is read back", select(2, schedule.parse(first.schedule)).tk == first.schedule:match("tk=(%d+)") + 0)
check("every architecture serves the base problem", (function()
    for _, arch in ipairs(target.names()) do
        if #init.generate(base, { arch = arch, sms = 0 }).source < 1000 then return false end
    end
    return true
end)())
