// Which models can refuse the values of an input, and how to hear of it.
//
// Where the CPU plugin runs one stream of one thread, InferRequest::infer() takes a short cut: it hands the inference
// to the executor of the stream, which discards every exception (2026.4.1; cpu_streams_executor.cpp, Defer). The
// outputs then hold what was there before, and the executor runs the inference that failed once more before the next
// one. No other configuration does so. With NUM_STREAMS=0 one thread runs in place as well, and infer() throws; it
// takes 2 us longer. So a model keeps the short cut only if it cannot refuse values.
#pragma once

#include <openvino/core/any.hpp>
#include <openvino/core/model.hpp>
#include <openvino/runtime/compiled_model.hpp>

namespace ovengine {

// Whether an inference can fail for the values of its inputs: false only where all shapes are static and no operator
// looks at values to refuse them. `model`: one to compile, or the runtime model of a compiled one.
bool may_refuse_values(const ov::Model& model);

// Whether an inference that fails leaves something behind in the compiled model: where shapes depend on values, the CPU
// plugin takes the same values for known when they come next, passes over what it would do for a change, and gives the
// result before them. Models with state count as such.
bool remembers_failures(const ov::Model& model);

// Properties by which infer() throws for a model that can refuse values.
ov::AnyMap without_short_cut(const ov::AnyMap& properties);

// Whether infer() discards exceptions.
bool takes_short_cut(const ov::CompiledModel& compiled);

}  // namespace ovengine
