// torch_op.cpp: convjit::conv2d, an operator of PyTorch's dispatcher.
//
// A call looks its plan up in a table of its own thread, takes output and workspace from PyTorch's allocator and launches
// on PyTorch's current stream; what is slow (checking shapes, making a plan) happens on the first call with new sizes.
// Needs no CUDA header: streams come through PyTorch's device-neutral interface. The functions of libconvjit are those
// of the library that torch_op.py has loaded before.
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "convjit.h"

namespace {

using at::IntArrayRef;
using at::Tensor;
using c10::SymInt;
using OptionalTensor = std::optional<Tensor>;
using OptionalText = std::optional<c10::string_view>;

// Everything but the tensors' contents. `padding` is top, left, bottom, right.
struct Call {
    const Tensor &input, &weight;
    const OptionalTensor &bias;
    IntArrayRef stride, padding, dilation;
    int64_t groups;
    convjit_activation activation;
    double alpha, beta;
    const OptionalTensor &residual;
};

// ---- Errors, in PyTorch's words where it has any ----

// Throws the error that a failed call of libconvjit deserves.
void check(convjit_status status)
{
    if (C10_LIKELY(status == CONVJIT_OK))
        return;
    const std::string text = std::string("convjit: ") + convjit_errmsg();
    TORCH_CHECK_WITH(OutOfMemoryError, status != CONVJIT_NO_MEMORY, text);
    TORCH_CHECK_NOT_IMPLEMENTED(status != CONVJIT_UNSUPPORTED && status != CONVJIT_NO_DEVICE, text);
    TORCH_CHECK(false, text);
}

convjit_activation activation_of(const OptionalText &name)
{
    static const char *const names[CONVJIT_ACTIVATION_COUNT] = {"identity", "relu",    "leaky_relu", "silu", "gelu",
                                                                "hardswish", "sigmoid", "tanh",       "clamp"};
    if (!name)
        return CONVJIT_IDENTITY;
    for (int i = 0; i < CONVJIT_ACTIVATION_COUNT; i++)
        if (*name == names[i])
            return static_cast<convjit_activation>(i);
    TORCH_CHECK_VALUE(false, "convjit: unknown activation '", *name, "'");
}

// What can differ between two calls whose plans' keys are equal.
void check_operands(const Call &c)
{
    const auto same = [&](const Tensor &other, const char *name) {
        TORCH_CHECK(c.input.scalar_type() == other.scalar_type(), "Input type (", c.input.scalar_type(), ") and ", name,
                    " type (", other.scalar_type(), ") should be the same");
        TORCH_CHECK(c.input.device() == other.device(), "Expected all tensors to be on the same device, but input is on ",
                    c.input.device(), " and ", name, " is on ", other.device());
    };
    same(c.weight, "weight");
    if (c.bias) {
        same(*c.bias, "bias");
        TORCH_CHECK(c.weight.dim() != 4 || (c.bias->dim() == 1 && c.bias->sym_size(0) == c.weight.sym_size(0)),
                    "Given weight of size ", c.weight.sym_sizes(), ", expected bias to be 1-dimensional with ",
                    c.weight.sym_size(0), " elements, but got bias of size ", c.bias->sym_sizes(), " instead");
    }
    if (c.residual)
        same(*c.residual, "residual");
}

void check_parameters(const Call &c)
{
    const auto all = [](IntArrayRef values, int64_t least) {
        return std::all_of(values.begin(), values.end(), [=](int64_t value) { return value >= least; });
    };
    TORCH_CHECK(all(c.padding, 0), "negative padding is not supported");
    TORCH_CHECK(all(c.stride, 1), "non-positive stride is not supported");
    TORCH_CHECK(all(c.dilation, 1), "dilation should be greater than zero, but got ", c.dilation);
    TORCH_CHECK(c.groups > 0, "non-positive groups is not supported");
}

void check_channels(const Call &c)
{
    const auto filters = c.weight.sym_size(0), channels = c.weight.sym_size(1);
    TORCH_CHECK(filters >= c.groups, "Given groups=", c.groups, ", expected weight to be at least ", c.groups,
                " at dimension 0, but got weight of size ", c.weight.sym_sizes(), " instead");
    TORCH_CHECK(filters % c.groups == 0, "Given groups=", c.groups, ", expected weight to be divisible by ", c.groups,
                " at dimension 0, but got weight of size ", c.weight.sym_sizes(), " instead");
    TORCH_CHECK(c.input.sym_size(1) == channels * c.groups, "Given groups=", c.groups, ", weight of size ",
                c.weight.sym_sizes(), ", expected input", c.input.sym_sizes(), " to have ", channels * c.groups,
                " channels, but got ", c.input.sym_size(1), " channels instead");
    TORCH_CHECK(channels > 0, "convjit: a convolution of no channels is not supported, but got input shape: ",
                c.input.sym_sizes());
}

// The output's sizes; throws if the arguments are none of a convolution.
std::vector<SymInt> output_sizes(const Call &c)
{
    check_operands(c);
    check_parameters(c);
    TORCH_CHECK(c.input.dim() == c.weight.dim() && c.weight.dim() == 4, "Expected ", c.weight.dim(), "-dimensional input for ",
                c.weight.dim(), "-dimensional weight ", c.weight.sym_sizes(), ", but got ", c.input.dim(),
                "-dimensional input of size ", c.input.sym_sizes(), " instead");
    check_channels(c);
    std::vector<SymInt> sizes = {c.input.sym_size(0), c.weight.sym_size(0)}, padded;
    for (int i = 0; i < 2; i++)
        padded.push_back(c.input.sym_size(2 + i) + c.padding[i] + c.padding[2 + i]);
    TORCH_CHECK(c.weight.sym_size(2) > 0 && c.weight.sym_size(3) > 0, "kernel size should be greater than zero, but got ",
                "kernel_height: ", c.weight.sym_size(2), " kernel_width: ", c.weight.sym_size(3));
    for (int i = 0; i < 2; i++) {
        const SymInt reach = (c.weight.sym_size(2 + i) - 1) * c.dilation[i] + 1;
        TORCH_CHECK(padded[i] >= reach, "Calculated padded input size per channel: (", padded[0], " x ", padded[1],
                    "). Kernel size: (", c.weight.sym_size(2), " x ", c.weight.sym_size(3),
                    "). Kernel size can't be greater than actual input size");
        TORCH_CHECK(c.input.sym_size(2 + i) > 0, "Only zero batch inputs are supported, but got input shape: ",
                    c.input.sym_sizes());
        sizes.push_back((padded[i] - reach) / c.stride[i] + 1);
    }
    TORCH_CHECK(!c.residual || c.residual->sym_sizes() == c10::SymIntArrayRef(sizes), "Expected residual to have the ",
                "output's size ", c10::SymIntArrayRef(sizes), ", but got ", c.residual->sym_sizes());
    return sizes;
}

// PyTorch's own rule for cuDNN: either operand in channels_last makes the output so.
at::MemoryFormat format_of(const Call &c)
{
    const auto last = at::MemoryFormat::ChannelsLast;
    return c.input.suggest_memory_format() == last || c.weight.suggest_memory_format() == last ? last
                                                                                              : at::MemoryFormat::Contiguous;
}

// Of weights as kernels take them: KRSC as channels_last models have them, or KCRS, which others are copied to.
at::MemoryFormat format_of_weights(const Tensor &weight)
{
    const auto last = at::MemoryFormat::ChannelsLast;
    return !weight.is_contiguous() && weight.is_contiguous(last) ? last : at::MemoryFormat::Contiguous;
}

// ---- Contexts ----

// One for each kind of device, for the life of the process: at its end CUDA may be gone before we are.
convjit *context_of(c10::DeviceType type)
{
    const auto opened = [](convjit_device device) {
        convjit_config config = {};
        convjit *context = nullptr;
        config.size = sizeof config;
        config.device = device;
        check(convjit_open(&context, &config));
        return context;
    };
    if (type == c10::kCUDA) {
        static convjit *const gpu = opened(CONVJIT_GPU);
        return gpu;
    }
    static convjit *const emulated = opened(CONVJIT_EMU);
    return emulated;
}

// Memory of a context's device that is not from PyTorch's allocator.
class Memory {
public:
    Memory(convjit *owner, size_t bytes) : context(owner) { check(convjit_device_alloc(context, &address, bytes)); }
    Memory(const Memory &) = delete;
    ~Memory() { convjit_device_free(context, address); }

    void write(const Tensor &dense) { check(convjit_device_write(context, address, dense.data_ptr(), dense.nbytes())); }

    void *address = nullptr;

private:
    convjit *const context;
};

// ---- Plans by key ----

convjit_math math_of(const Call &c)
{
    switch (c.input.scalar_type()) {
    case at::kHalf: return CONVJIT_F16;
    case at::kBFloat16: return CONVJIT_BF16;
    case at::kFloat: return at::globalContext().allowTF32CuDNN(at::Float32Op::CONV) ? CONVJIT_TF32 : CONVJIT_F32;
    default:
        output_sizes(c); // what PyTorch refuses, too, is said first
        TORCH_CHECK_NOT_IMPLEMENTED(false, "convjit: ", c.input.scalar_type(), " is not supported; float32, float16 and ",
                                    "bfloat16 are");
    }
}

struct Key { // no padding: compared and hashed as words
    int64_t sizes[8]; // of input and weight
    int64_t stride[2], padding[4], dilation[2], groups;
    float alpha, beta;
    int32_t math, layout, weights_layout, activation;
    int32_t device, bias, residual, unused;

    bool operator==(const Key &other) const { return std::memcmp(this, &other, sizeof *this) == 0; }
};

struct Hash {
    size_t operator()(const Key &key) const
    {
        uint64_t words[sizeof(Key) / sizeof(uint64_t)], hash = 0;
        static_assert(sizeof words == sizeof key, "Key is a whole number of words");
        std::memcpy(words, &key, sizeof words);
        for (const uint64_t word : words) {
            hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
            hash ^= hash >> 32;
        }
        return hash;
    }
};

Key key_of(const Call &c, at::MemoryFormat format)
{
    Key key = {};
    std::copy_n(c.input.sizes().begin(), 4, key.sizes);
    std::copy_n(c.weight.sizes().begin(), 4, key.sizes + 4);
    std::copy_n(c.stride.begin(), 2, key.stride);
    std::copy_n(c.padding.begin(), 4, key.padding);
    std::copy_n(c.dilation.begin(), 2, key.dilation);
    key.groups = c.groups;
    const bool slope = c.activation == CONVJIT_LEAKY_RELU, bounds = c.activation == CONVJIT_CLAMP;
    key.alpha = slope || bounds ? static_cast<float>(c.alpha) : 0;
    key.beta = bounds ? static_cast<float>(c.beta) : 0;
    key.math = math_of(c);
    key.layout = format == at::MemoryFormat::ChannelsLast ? CONVJIT_NHWC : CONVJIT_NCHW;
    key.weights_layout = format_of_weights(c.weight) == at::MemoryFormat::ChannelsLast ? CONVJIT_KRSC : CONVJIT_KCRS;
    key.activation = c.activation;
    key.device = c.input.device().index();
    key.bias = c.bias.has_value();
    key.residual = c.residual.has_value();
    return key;
}

struct Plan {
    convjit_plan *handle = nullptr;
    size_t workspace = 0, alignment = 0, packed = 0; // bytes
    const void *packing = nullptr;                   // equal for plans that can share packed weights
    at::MemoryFormat weights = at::MemoryFormat::Contiguous;
    std::vector<int64_t> output;                     // sizes

    Plan() = default;
    Plan(const Plan &) = delete;
    ~Plan() { convjit_plan_destroy(handle); }
};

// One address for all plans of one schedule and one problem but for N, H and W.
const void *packing_of(const convjit_plan *plan, convjit_problem problem)
{
    static std::mutex lock;
    static auto &names = *new std::set<std::string>;
    char text[512];
    problem.n = problem.h = problem.w = 1;
    convjit_problem_format(&problem, text, sizeof text);
    const std::lock_guard<std::mutex> guard(lock);
    return &*names.insert(std::string(text) + ' ' + convjit_plan_schedule(plan)).first;
}

std::shared_ptr<Plan> make_plan(const Call &c, const Key &key)
{
    auto plan = std::make_shared<Plan>();
    for (const SymInt &size : output_sizes(c))
        plan->output.push_back(size.expect_int());
    if (key.sizes[0] == 0)
        return plan; // an empty batch: nothing will be launched
    convjit_problem p;
    convjit_problem_init(&p);
    p.n = key.sizes[0], p.c = key.sizes[1], p.h = key.sizes[2], p.w = key.sizes[3];
    p.k = key.sizes[4], p.r = key.sizes[6], p.s = key.sizes[7];
    p.stride_h = key.stride[0], p.stride_w = key.stride[1];
    p.pad_top = key.padding[0], p.pad_left = key.padding[1], p.pad_bottom = key.padding[2], p.pad_right = key.padding[3];
    p.dil_h = key.dilation[0], p.dil_w = key.dilation[1];
    p.groups = key.groups;
    p.math = static_cast<convjit_math>(key.math);
    p.layout = static_cast<convjit_layout>(key.layout);
    p.weights_layout = static_cast<convjit_weights_layout>(key.weights_layout);
    p.activation = c.activation;
    p.alpha = key.alpha, p.beta = key.beta;
    p.bias = key.bias, p.residual = key.residual;
    check(convjit_plan_create(&plan->handle, context_of(c.input.device().type()), &p));
    plan->workspace = convjit_plan_workspace(plan->handle);
    plan->alignment = convjit_plan_alignment(plan->handle);
    plan->packed = convjit_plan_packed_size(plan->handle);
    plan->weights = format_of_weights(c.weight);
    if (plan->packed)
        plan->packing = packing_of(plan->handle, p);
    return plan;
}

// Plans of all threads behind a lock, and of each thread without one. A table that gets too large (sizes that never
// repeat) is emptied: libconvjit itself still remembers kernels, so that a plan is cheap to make again.
class Plans {
public:
    const Plan &find(const Call &c, const Key &key)
    {
        static thread_local Table mine;
        auto found = mine.find(key);
        if (C10_UNLIKELY(found == mine.end())) {
            std::shared_ptr<Plan> plan = find_shared(c, key);
            make_room(mine);
            found = mine.emplace(key, std::move(plan)).first;
        }
        return *found->second;
    }

private:
    using Table = std::unordered_map<Key, std::shared_ptr<Plan>, Hash>;
    static constexpr size_t MOST = 4096;

    static void make_room(Table &table)
    {
        if (table.size() >= MOST)
            table.clear();
    }

    std::shared_ptr<Plan> find_shared(const Call &c, const Key &key)
    {
        {
            std::lock_guard<std::mutex> guard(lock);
            const auto found = shared.find(key);
            if (found != shared.end())
                return found->second;
        }
        std::shared_ptr<Plan> plan = make_plan(c, key); // may compile; of two threads that do, libconvjit lets one wait
        std::lock_guard<std::mutex> guard(lock);
        make_room(shared);
        return shared.emplace(key, std::move(plan)).first->second;
    }

    std::mutex lock;
    Table shared;
};

// ---- Weights ----

// true while a graph is being captured on a stream of the GPU: it must read the weights anew on each replay.
bool is_capturing(void *stream)
{
    using Query = int (*)(void *stream, int *status);
    static const auto query = [] {
        void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
        return driver ? reinterpret_cast<Query>(dlsym(driver, "cuStreamIsCapturing")) : nullptr;
    }();
    int status = 0;
    return query && (query(stream, &status) != 0 || status != 0);
}

// Set while a gradient will be wanted: then weights are about to change, and nothing that derives from them is kept.
thread_local bool training = false;
struct Training {
    const bool before = std::exchange(training, true);
    ~Training() { training = before; }
};

Tensor aligned(const Tensor &dense, size_t alignment)
{
    return reinterpret_cast<uintptr_t>(dense.data_ptr()) % alignment ? dense.clone() : dense;
}

// What a launch takes for its weights.
struct Weights {
    Tensor dense;                     // themselves, or a copy for this launch
    std::shared_ptr<Memory> prepared; // or what is kept: packed, or a dense copy
};

// Weights as kernels want them: packed by a plan that packs, dense at least. Made when the same weights come a second
// time, and valid as long as they live and are not written to. PyTorch counts in-place writes in a tensor's version; those
// through `.data` it does not see, and neither does this: clear() is for them. An entry belongs to a stream, where later
// work is ordered behind its making. Its memory is its own, since PyTorch's allocator may be serving a graph's private pool.
class PreparedWeights {
public:
    Weights find(const Tensor &weight, const Plan &plan, void *stream)
    {
        const bool ready = weight.is_contiguous(plan.weights) && !plan.packed;
        if (ready || training || weight.is_inference() || is_capturing(stream))
            return {aligned(weight.contiguous(plan.weights), plan.alignment), nullptr};
        const std::lock_guard<std::mutex> guard(lock);
        const Place place = {weight.unsafeGetTensorImpl(), stream, plan.packing};
        const auto found = entries.find(place);
        const auto version = static_cast<int64_t>(weight._version());
        if (found == entries.end() || !found->second.is_of(weight)) {
            forget_the_dead();
            entries.insert_or_assign(place, Entry(weight, version));
            return {aligned(weight.contiguous(plan.weights), plan.alignment), nullptr};
        }
        Entry &entry = found->second;
        if (entry.seen == version && entry.made != version)
            entry.make(weight, version, plan, stream);
        entry.seen = version;
        if (entry.made == version)
            return {Tensor(), entry.memory};
        return {aligned(weight.contiguous(plan.weights), plan.alignment), nullptr};
    }

    void clear()
    {
        const std::lock_guard<std::mutex> guard(lock);
        entries.clear();
    }

private:
    struct Place {
        const void *weight, *stream, *packing; // no packing: dense

        bool operator==(const Place &other) const
        {
            return weight == other.weight && stream == other.stream && packing == other.packing;
        }
    };
    struct PlaceHash {
        size_t operator()(const Place &place) const
        {
            const std::hash<const void *> hash;
            return (hash(place.weight) * 31 + hash(place.stream)) * 31 + hash(place.packing);
        }
    };
    struct Entry {
        c10::weak_intrusive_ptr<c10::TensorImpl> weight; // keeps its address from being another tensor's
        const void *address;                             // of its elements: `.data = ` gives a tensor others
        int64_t seen, made = -1;                         // versions
        std::shared_ptr<Memory> memory;

        Entry(const Tensor &of, int64_t version) : weight(of.getIntrusivePtr()), address(of.data_ptr()), seen(version) {}

        bool is_of(const Tensor &other) const { return !weight.expired() && address == other.data_ptr(); }

        void make(const Tensor &from, int64_t version, const Plan &plan, void *stream)
        {
            const Tensor dense = aligned(from.contiguous(plan.weights), plan.alignment);
            convjit *context = context_of(from.device().type());
            try {
                if (!memory)
                    memory = std::make_shared<Memory>(context, plan.packed ? plan.packed : dense.nbytes());
            } catch (const c10::OutOfMemoryError &) {
                return; // launches do without
            }
            if (from.is_cuda() && plan.packed) {
                check(convjit_weights_pack(plan.handle, dense.data_ptr(), memory->address, stream));
            } else if (from.is_cuda()) {
                at::from_blob(memory->address, dense.sizes(), dense.options()).copy_(dense);
            } else if (plan.packed) {
                Memory copy(context, dense.nbytes());
                copy.write(dense);
                check(convjit_weights_pack(plan.handle, copy.address, memory->address, nullptr));
            } else {
                memory->write(dense);
            }
            made = version;
        }
    };

    void forget_the_dead()
    {
        for (auto entry = entries.begin(); entry != entries.end();)
            entry = entry->second.weight.expired() ? entries.erase(entry) : std::next(entry);
    }

    std::mutex lock;
    std::unordered_map<Place, Entry, PlaceHash> entries;
};

// Neither is ever destroyed: at the end of the process CUDA's memory may be gone before they are.
Plans &plans = *new Plans;
PreparedWeights &prepared_weights = *new PreparedWeights;

// ---- Running ----

// The operands of a launch as kernels want them: dense, and aligned.
struct Operands {
    Tensor input, bias, residual;
    Weights weights;
    size_t workspace;

    Operands(const Call &c, const Plan &plan, at::MemoryFormat format, void *stream)
        : input(aligned(c.input.contiguous(format), plan.alignment)), weights(prepared_weights.find(c.weight, plan, stream)),
          workspace(plan.workspace - (weights.prepared ? plan.packed : 0))
    {
        if (c.bias)
            bias = aligned(c.bias->contiguous(), plan.alignment);
        if (c.residual)
            residual = aligned(c.residual->contiguous(format), plan.alignment);
    }

    convjit_tensors pointers(const Plan &plan, const Tensor &output) const
    {
        const auto address = [](const Tensor &tensor) { return tensor.defined() ? tensor.data_ptr() : nullptr; };
        convjit_tensors tensors = {};
        tensors.size = sizeof tensors;
        tensors.input = address(input);
        tensors.weights = address(weights.dense);
        if (weights.prepared)
            (plan.packed ? tensors.packed : tensors.weights) = weights.prepared->address;
        tensors.bias = address(bias);
        tensors.residual = address(residual);
        tensors.output = address(output);
        return tensors;
    }
};

Tensor run_on_gpu(const Call &c)
{
    const c10::DeviceGuard guard(c.input.device());
    const at::MemoryFormat format = format_of(c);
    const Plan &plan = plans.find(c, key_of(c, format));
    Tensor output = at::empty(plan.output, c.input.options().memory_format(format));
    if (output.numel() == 0)
        return output;
    const c10::impl::VirtualGuardImpl device(c.input.device().type());
    void *stream = device.getStreamNativeHandle(device.getStream(c.input.device()));
    const Operands operands(c, plan, format, stream);
    convjit_tensors tensors = operands.pointers(plan, output);
    Tensor workspace;
    if (operands.workspace) {
        workspace = at::empty({static_cast<int64_t>(operands.workspace)}, c.input.options().dtype(at::kByte));
        tensors.workspace = workspace.data_ptr();
    }
    check(convjit_plan_launch(plan.handle, &tensors, stream));
    return output;
}

// Through copies in the emulated device's memory, except of prepared weights, which are there.
Tensor run_emulated(const Call &c)
{
    convjit *context = context_of(c10::kCPU);
    const at::MemoryFormat format = format_of(c);
    const Plan &plan = plans.find(c, key_of(c, format));
    Tensor output = at::empty(plan.output, c.input.options().memory_format(format));
    if (output.numel() == 0)
        return output;
    const Operands operands(c, plan, format, nullptr);
    convjit_tensors tensors = operands.pointers(plan, output);
    std::vector<std::unique_ptr<Memory>> copies;
    const auto allocate = [&](size_t bytes) {
        copies.push_back(std::make_unique<Memory>(context, bytes));
        return copies.back()->address;
    };
    const auto copy = [&](const Tensor &tensor, const void *&pointer) {
        if (!tensor.defined())
            return;
        pointer = allocate(tensor.nbytes());
        copies.back()->write(tensor);
    };
    copy(operands.input, tensors.input);
    copy(operands.weights.dense, tensors.weights);
    copy(operands.bias, tensors.bias);
    copy(operands.residual, tensors.residual);
    tensors.output = allocate(output.nbytes());
    if (operands.workspace)
        tensors.workspace = allocate(operands.workspace);
    check(convjit_plan_launch(plan.handle, &tensors, nullptr));
    check(convjit_device_read(context, output.data_ptr(), tensors.output, output.nbytes()));
    return output;
}

// ---- The operator ----

#define CONVJIT_PARAMETERS                                                                                               \
    const Tensor &input, const Tensor &weight, const OptionalTensor &bias, IntArrayRef stride, IntArrayRef padding,      \
        IntArrayRef dilation, int64_t groups, OptionalText activation, double alpha, double beta,                        \
        const OptionalTensor &residual
#define CONVJIT_CALL                                                                                                     \
    Call { input, weight, bias, stride, padding, dilation, groups, activation_of(activation), alpha, beta, residual }

Tensor conv2d_checked(const Call &c, Tensor (*run)(const Call &c))
{
    if (c.input.dim() != 4 || c.weight.dim() != 4)
        output_sizes(c); // throws
    check_operands(c);
    if (c.residual)
        output_sizes(c);
    return run(c);
}

Tensor conv2d_cuda(CONVJIT_PARAMETERS)
{
    return conv2d_checked(CONVJIT_CALL, run_on_gpu);
}

Tensor conv2d_cpu(CONVJIT_PARAMETERS)
{
    const Call c = CONVJIT_CALL;
    output_sizes(c);
    const char *emulate = std::getenv("CONVJIT_EMULATE");
    TORCH_CHECK_NOT_IMPLEMENTED(emulate && std::strcmp(emulate, "1") == 0, "convjit: the input is on the CPU, but kernels ",
                                "are for CUDA devices (CONVJIT_EMULATE=1 runs them on the emulated device, very slowly)");
    return conv2d_checked(c, run_emulated);
}

Tensor conv2d_meta(CONVJIT_PARAMETERS)
{
    const Call c = CONVJIT_CALL;
    return at::empty_symint(output_sizes(c), c.input.options().memory_format(format_of(c)));
}

Tensor call(CONVJIT_PARAMETERS)
{
    static const auto op =
        c10::Dispatcher::singleton().findSchemaOrThrow("convjit::conv2d", "").typed<Tensor(CONVJIT_PARAMETERS)>();
    return op.call(input, weight, bias, stride, padding, dilation, groups, activation, alpha, beta, residual);
}

// ---- Gradients: PyTorch's own ----

struct Convolution : torch::autograd::Function<Convolution> {
    static Tensor forward(torch::autograd::AutogradContext *context, const Tensor &input, const Tensor &weight,
                          const OptionalTensor &bias, IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation,
                          int64_t groups)
    {
        context->save_for_backward({input, weight});
        context->saved_data["stride"] = stride;
        context->saved_data["padding"] = padding;
        context->saved_data["dilation"] = dilation;
        context->saved_data["groups"] = groups;
        context->saved_data["has_bias"] = bias.has_value();
        const at::AutoDispatchBelowADInplaceOrView below;
        const Training now;
        return call(input, weight, bias, stride, padding, dilation, groups, std::nullopt, 0, 0, std::nullopt);
    }

    static torch::autograd::variable_list backward(torch::autograd::AutogradContext *context,
                                                   const torch::autograd::variable_list &gradients)
    {
        const auto saved = context->get_saved_variables();
        const Tensor &input = saved[0], &weight = saved[1];
        const auto numbers = [&](const char *name) { return context->saved_data[name].toIntVector(); };
        const auto padding = numbers("padding");
        const bool has_bias = context->saved_data["has_bias"].toBool();
        const bool even = padding[0] == padding[2] && padding[1] == padding[3];
        // convolution_backward pads both sides alike; anything else becomes a part of the input
        const Tensor padded = even ? input : at::constant_pad_nd(input, {padding[1], padding[3], padding[0], padding[2]});
        const std::vector<int64_t> sides = even ? std::vector<int64_t>{padding[0], padding[1]} : std::vector<int64_t>{0, 0};
        const SymInt filters = weight.sym_size(0);
        const at::OptionalSymIntArrayRef bias_sizes =
            has_bias ? at::OptionalSymIntArrayRef(c10::SymIntArrayRef(filters)) : std::nullopt;
        auto [input_gradient, weight_gradient, bias_gradient] = at::convolution_backward_symint(
            gradients[0], padded, weight, bias_sizes, c10::fromIntArrayRefSlow(numbers("stride")),
            c10::fromIntArrayRefSlow(sides), c10::fromIntArrayRefSlow(numbers("dilation")), false, {SymInt(0), SymInt(0)},
            context->saved_data["groups"].toInt(),
            {context->needs_input_grad(0), context->needs_input_grad(1), has_bias && context->needs_input_grad(2)});
        if (!even && input_gradient.defined())
            input_gradient = input_gradient.slice_symint(2, padding[0], input.sym_size(2) + padding[0])
                                 .slice_symint(3, padding[1], input.sym_size(3) + padding[1]);
        return {input_gradient, weight_gradient, bias_gradient, Tensor(), Tensor(), Tensor(), Tensor()};
    }
};

Tensor activate(const Tensor &v, const Call &c)
{
    switch (c.activation) {
    case CONVJIT_RELU: return at::relu(v);
    case CONVJIT_LEAKY_RELU: return at::leaky_relu(v, c.alpha);
    case CONVJIT_SILU: return at::silu(v);
    case CONVJIT_GELU: return at::gelu(v);
    case CONVJIT_HARDSWISH: return at::hardswish(v);
    case CONVJIT_SIGMOID: return at::sigmoid(v);
    case CONVJIT_TANH: return at::tanh(v);
    case CONVJIT_CLAMP: return at::clamp(v, c.alpha, c.beta);
    default: return v;
    }
}

// Without a gradient to compute, straight to the kernel. With one, activation and residual are PyTorch's: their own
// backward needs what comes before them.
Tensor conv2d_autograd(CONVJIT_PARAMETERS)
{
    const auto is_differentiated = [](const OptionalTensor &t) { return t && t->requires_grad(); };
    const auto is_dual = [](const OptionalTensor &t) { return t && t->_fw_grad(0).defined(); };
    TORCH_CHECK_NOT_IMPLEMENTED(!is_dual(input) && !is_dual(weight) && !is_dual(bias) && !is_dual(residual),
                                "convjit: forward-mode differentiation is not supported");
    if (!c10::GradMode::is_enabled() || (!input.requires_grad() && !weight.requires_grad() && !is_differentiated(bias) &&
                                         !is_differentiated(residual))) {
        const at::AutoDispatchBelowADInplaceOrView below;
        return call(input, weight, bias, stride, padding, dilation, groups, activation, alpha, beta, residual);
    }
    const Call c = CONVJIT_CALL;
    output_sizes(c); // before anything is computed
    const Tensor y = activate(Convolution::apply(input, weight, bias, stride, padding, dilation, groups), c);
    return residual ? y + *residual : y;
}

// Under autocast, a convolution takes the lower precision, as PyTorch's do.
template <c10::DeviceType type, c10::DispatchKey autocast> Tensor conv2d_autocast(CONVJIT_PARAMETERS)
{
    const c10::impl::ExcludeDispatchKeyGuard without(autocast);
    const auto dtype = at::autocast::get_lower_precision_fp_from_device_type(type);
    const auto cast = [&](const OptionalTensor &t) { return at::autocast::cached_cast(dtype, t, type); };
    return call(at::autocast::cached_cast(dtype, input, type), at::autocast::cached_cast(dtype, weight, type), cast(bias),
                stride, padding, dilation, groups, activation, alpha, beta, cast(residual));
}

void forget_weights()
{
    prepared_weights.clear();
}

TORCH_LIBRARY(convjit, m)
{
    m.def("conv2d(Tensor input, Tensor weight, Tensor? bias, int[2] stride, int[4] padding, int[2] dilation, int groups, "
          "str? activation=None, float alpha=0, float beta=0, Tensor? residual=None) -> Tensor");
    m.def("forget_weights() -> ()", forget_weights);
}
TORCH_LIBRARY_IMPL(convjit, CUDA, m) { m.impl("conv2d", conv2d_cuda); }
TORCH_LIBRARY_IMPL(convjit, CPU, m) { m.impl("conv2d", conv2d_cpu); }
TORCH_LIBRARY_IMPL(convjit, Meta, m) { m.impl("conv2d", conv2d_meta); }
TORCH_LIBRARY_IMPL(convjit, Autograd, m) { m.impl("conv2d", conv2d_autograd); }
TORCH_LIBRARY_IMPL(convjit, AutocastCUDA, m)
{
    m.impl("conv2d", conv2d_autocast<c10::kCUDA, c10::DispatchKey::AutocastCUDA>);
}
TORCH_LIBRARY_IMPL(convjit, AutocastCPU, m)
{
    m.impl("conv2d", conv2d_autocast<c10::kCPU, c10::DispatchKey::AutocastCPU>);
}

} // namespace
