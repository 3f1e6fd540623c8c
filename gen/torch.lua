-- torch.lua: a kernel as a Python file for PyTorch: (problem, kernel) -> text of templates/torch_module.py.in.
--
-- As with the CUDA text, nothing in it depends on N, H or W.

local problem = require "problem"
local template = require "template"

local types <const> = {
    f32  = { python = "torch.float32", scalar = "kFloat" },
    tf32 = { python = "torch.float32", scalar = "kFloat" },
    f16  = { python = "torch.float16", scalar = "kHalf" },
    bf16 = { python = "torch.bfloat16", scalar = "kBFloat16" },
}

local layouts <const> = {
    nchw = { format = "Contiguous", described = "contiguous (NCHW)" },
    nhwc = { format = "ChannelsLast", described = "with x and y in torch.channels_last" },
}

-- A launch expression (runtime/expr.c) as C++: the grammar is a part of C++'s, but literals must be 64 bits wide.
local function cpp(expression)
    return (string.gsub(expression, "%f[%w_]%d+", "%0LL"))
end

-- Text as a C string literal.
local function c_string(text)
    return '"' .. string.gsub(text, '[\\"]', "\\%0") .. '"'
end

-- A list of expressions as C++.
local function cpp_list(expressions)
    local out = {}
    for i, expression in ipairs(expressions) do out[i] = cpp(tostring(expression)) end
    return "{" .. table.concat(out, ", ") .. "}"
end

local map_types <const> = { f16 = 6, f32 = 7, bf16 = 9, tf32 = 11 }   -- CUtensorMapDataType

-- A tensor map as a kernel's argument: the declaration of its memory, and the call that fills it.
local function map_argument(name, arg)
    local steps = {}
    for i in ipairs(arg.dims) do steps[i] = arg.element_strides and arg.element_strides[i] or 1 end
    return string.format("alignas(64) unsigned char %s[128];\n" ..
                         "        encode(%s, %d, %d, (const char *)%s + (%s), %s, %s, %s, %s);", name, name,
                         map_types[arg.element], arg.swizzle or 0, arg.tensor, cpp(arg.offset or "0"), cpp_list(arg.dims),
                         cpp_list(arg.strides), cpp_list(arg.box), cpp_list(steps))
end

-- The declaration of a launch's i-th argument, in C++.
local function argument(i, arg)
    local name = "arg" .. i
    if arg.kind == "tensor_map" then return map_argument(name, arg) end
    if arg.kind == "i32" then return string.format("int %s = to_int(%s);", name, cpp(arg.expr)) end
    if arg.kind == "i64" then return string.format("long long %s = %s;", name, cpp(arg.expr)) end
    if arg.kind == "workspace" or arg.kind == "packed" then
        return string.format("void *%s = %s + (%s);", name, arg.kind, cpp(arg.expr))
    end
    if arg.kind == "output" then return string.format("void *%s = output;", name) end
    return string.format("const void *%s = %s;", name, arg.kind)
end

-- nvcc's flags, as a Python list's inside. PyTorch chooses the language standard, which its headers depend on.
local function nvcc_flags(kernel)
    local number = string.match(kernel.arch, "^sm_(%w+)$")
    local flags = { string.format('"-gencode=arch=compute_%s,code=sm_%s"', number, number) }
    for _, option in ipairs(kernel.options) do
        if not string.find(option, "^%-%-gpu%-architecture=") and not string.find(option, "^%-%-std=") then
            flags[#flags + 1] = '"' .. option .. '"'
        end
    end
    return table.concat(flags, ", ")
end

-- The number of a cluster's blocks along each axis.
local function cluster(launch)
    local sizes = launch.cluster or { 1, 1, 1 }
    return string.format("dim3(%d, %d, %d)", sizes[1], sizes[2], sizes[3])
end

local function uses_maps(kernel)
    for _, launch in ipairs(kernel.launches) do
        for _, arg in ipairs(launch.args) do
            if arg.kind == "tensor_map" then return true end
        end
    end
    return false
end

-- What follows the convolution, for people.
local function epilogue(p)
    local parts = {}
    if p.activation ~= "identity" then parts[#parts + 1] = string.match(problem.tuple(p), p.activation .. "[^_]*") end
    if p.residual then parts[#parts + 1] = "the sum with forward's second argument, a tensor of the output's shape" end
    return table.concat(parts, ", then ")
end

return function(p, kernel)
    -- a Python r'''...''' ends at the first ''' and cannot hold any other end of a string
    if string.find(kernel.source, "'''", 1, true) or string.sub(kernel.source, -1) ~= "\n" then
        error("the source of " .. kernel.name .. " cannot be a Python raw string")
    end
    local packed = kernel.packed or "0"
    local symmetric = p.pad_top == p.pad_bottom and p.pad_left == p.pad_right
    local cpp_parameters = { "const torch::Tensor &x", "const torch::Tensor &weight" }
    local tensors = { "x", "weight" }
    if p.bias then
        cpp_parameters[#cpp_parameters + 1] = "const torch::Tensor &bias"
        tensors[#tensors + 1] = "self.conv2d.bias"
    end
    if p.residual then
        cpp_parameters[#cpp_parameters + 1] = "const torch::Tensor &residual"
        tensors[#tensors + 1] = "residual"
    end
    return template.render("torch_module.py.in", {
        p = p, kernel = kernel, source = kernel.source,
        cpp = cpp, c_string = c_string, argument = argument,
        again = string.format("convjit dump %s --arch %s --schedule %s --format torch", problem.smallest(p), kernel.arch,
                              kernel.schedule),
        bias = p.bias and "True" or "False",
        dtype = types[p.math].python, scalar_type = types[p.math].scalar,
        memory_format = layouts[p.layout].format, described_layout = layouts[p.layout].described,
        weight_format = p.weights_layout == "krsc" and "ChannelsLast" or "Contiguous",
        epilogue = epilogue(p),
        several = #kernel.launches > 1,
        workspace = kernel.workspace ~= "0" or packed ~= "0", packed = packed,
        cluster = cluster, maps = uses_maps(kernel),
        parameters = table.concat(cpp_parameters, ", "),
        tensors = table.concat(tensors, ", "),
        forward_parameters = p.residual and "x, residual" or "x",
        extension_name = kernel.name .. "_" .. string.sub(host.digest(kernel.source), 1, 12),
        nvcc_flags = nvcc_flags(kernel),
        default_padding = symmetric and string.format("(%d, %d)", p.pad_top, p.pad_left) or
                          string.format("(%d, %d, %d, %d)", p.pad_top, p.pad_left, p.pad_bottom, p.pad_right),
        -- nn.Conv2d knows no padding that differs between two sides, except "same"
        holder_padding = symmetric and "padding" or '"same" if padding == "same" else 0',
        holder_note = symmetric and "" or ', which cannot hold this padding itself unless it is "same"',
    })
end
