// Weights that nobody else can change.
//
// OpenVINO maps the files of weights into memory, shared with whoever writes to them: what is written there shows in
// everything that is compiled from the model later, and in constants that a compiled model reads as it runs. A file
// that is truncated ends the process. An openvino.Model may also hold constants that lie in an array of its owner's.
#pragma once

#include <cstddef>
#include <memory>
#include <openvino/core/model.hpp>

namespace ovengine {

// Bytes of the constants that lie in a mapped file.
std::size_t mapped_bytes(const ov::Model& model);

// A copy of the model whose constants lie in memory of its own: those of mapped files, or all of them. Throws
// std::runtime_error where a file is shorter than when it was mapped, or changes as it is read.
std::shared_ptr<ov::Model> with_own_constants(const ov::Model& model, bool all);

}  // namespace ovengine
