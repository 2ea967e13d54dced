// Executor and CompiledModel: what a lane needs of a device. OpenVINO is one implementation, the fake another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace ovengine {

using Dimensions = std::vector<std::int64_t>;  // -1 where dynamic

struct Port {
    std::vector<std::string> names;  // the first is the one that is shown; never empty
    Dimensions shape;
    bool rank_is_static = true;
    std::string dtype;           // of the array that shows it, in NumPy's spelling: "f4", "i8", "b1", ...; "U" for text
    std::string element_type{};  // OpenVINO's name of an element: "f32", "bf16", "u4", "string", ...
    std::size_t bits = 0;        // of an element in memory; 0 for text
    // Bounds of each dimension; `most` is -1 where there is none. Empty when the rank is dynamic.
    Dimensions least{}, most{};
};

// Bytes of a tensor of `count` elements; those smaller than a byte lie packed.
inline std::size_t packed_bytes(std::size_t count, std::size_t bits) { return (count * bits + 7) / 8; }

struct ShapedInput {
    const std::byte* data;  // for text an array of std::string
    Dimensions shape;
};

struct ShapedOutput {
    Dimensions shape;
    std::vector<std::byte> data;
    std::vector<std::string> text{};  // instead of `data`
};

// Runs inferences of one compiled batch size. One thread at a time; `infer` throws std::exception on failure and can
// be called again afterwards.
class Executor {
  public:
    virtual ~Executor() = default;

    // One inference over whole batches. `binding` names a set of buffers that comes again (a slot), so that an
    // implementation can keep a request bound to them; the pointers are what counts, and may differ from last time.
    virtual void infer(std::uint32_t binding, std::byte* const* inputs, std::byte* const* outputs) = 0;

    // One inference at the shapes given, for models with dynamic dimensions.
    virtual std::vector<ShapedOutput> infer_shaped(const std::vector<ShapedInput>& inputs) = 0;
};

// An infer request with a state of its own, which lasts from one inference to the next. One thread at a time.
class StatefulExecutor {
  public:
    virtual ~StatefulExecutor() = default;
    virtual const std::vector<Port>& states() const = 0;  // the state's variables, by their ids

    // As Executor::infer_shaped(), from the state that the last inference left. One that throws leaves it as it was, or
    // says that it is the initial one again.
    virtual std::vector<ShapedOutput> infer_shaped(const std::vector<ShapedInput>& inputs) = 0;

    virtual void reset_state() = 0;
    virtual ShapedOutput state(std::size_t variable) = 0;
    // Throws std::exception, and leaves the state as it was, where the shape does not fit.
    virtual void set_state(std::size_t variable, const ShapedInput& value) = 0;
};

// What a job may run instead of a lane's executor: an infer request that is its owner's. One thread at a time.
class Runnable {
  public:
    virtual ~Runnable() = default;
    // Throws std::exception on failure, and can be called again afterwards.
    virtual void run() = 0;
};

class OwnRequest;

// One compiled model. Thread-safe.
class CompiledModel {
  public:
    virtual ~CompiledModel() = default;
    virtual const std::vector<Port>& inputs() const = 0;
    virtual const std::vector<Port>& outputs() const = 0;
    virtual std::string property(const std::string& name) const = 0;
    virtual std::string export_blob() const = 0;
    virtual std::unique_ptr<Executor> make_executor() const = 0;
    virtual std::unique_ptr<StatefulExecutor> make_stateful() const = 0;
    virtual std::shared_ptr<OwnRequest> make_own_request() const {
        throw std::runtime_error("the device has no infer requests");
    }

    // One inference outside any lane, on copies of the inputs. Throws std::exception, also where it takes longer than
    // `seconds`: it is cancelled then, or left behind where that does not end it.
    virtual std::vector<ShapedOutput> try_infer(const std::vector<ShapedInput>& inputs, double /*seconds*/) const {
        return make_executor()->infer_shaped(inputs);
    }
};

}  // namespace ovengine
