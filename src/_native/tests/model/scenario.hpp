// What all scenarios need: the checker, and the classes under test, into which it reaches.
#pragma once

#include "checker.hpp"

// After all of the standard library's: the scenarios reach into the classes under test.
#define private public
#include "batch.hpp"
#include "bounded_ring.hpp"
#include "claim_word.hpp"
#include "event.hpp"
#include "fake_executor.hpp"
#include "free_list.hpp"
#include "idle_lanes.hpp"
#include "mailbox.hpp"
#include "model_core.hpp"
#undef private

namespace ovengine::scenarios {

// Plain memory that a race on is an error.
using Plain = rl::var<int>;
#define EXPECT(condition) RL_ASSERT(condition)

}  // namespace ovengine::scenarios
