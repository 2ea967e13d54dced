// Infer requests of OpenVINO: what lanes and sessions run, of a compiled model that is made anew when one has failed.
#pragma once

#include <memory>
#include <openvino/runtime/compiled_model.hpp>
#include <string>
#include <vector>

#include "device/executor.hpp"
#include "device/renewable.hpp"

namespace ovengine {

// As OpenVINO's own Python API shows it: what NumPy lacks as bits of the same size, or as packed bytes.
std::string numpy_dtype(const ov::element::Type& type);

using RenewableModel = Renewable<ov::CompiledModel>;

// What an inference that fails for its values asks for, see openvino_refusals.hpp.
struct Failures {
    bool are_discarded;    // by infer(), but not by start_async() and wait(), which take some 20 us longer
    bool leave_old_state;  // in the compiled model, which is made anew therefore
};

// See CompiledModel::try_infer().
std::vector<ShapedOutput> try_infer(RenewableModel& model, Failures failures, const std::vector<ShapedInput>& inputs,
                                    double seconds);
std::unique_ptr<Executor> make_executor(std::shared_ptr<RenewableModel> model, Failures failures);
std::unique_ptr<StatefulExecutor> make_stateful(std::shared_ptr<RenewableModel> model, Failures failures);
std::shared_ptr<OwnRequest> make_own_request(ov::CompiledModel compiled, Failures failures);

// One inference. Throws when it fails.
void run(ov::InferRequest& request, const Failures& failures);

}  // namespace ovengine
