// Plays the scenarios through. See README.md.
//
//     model_check [--iterations N] [--weaken FILE:LINE:PART:ORDER] [--sites] [--verbose] [SCENARIO...]
#include "core_scenarios.hpp"
#include "primitive_scenarios.hpp"
#include "queue_scenarios.hpp"

namespace {

using namespace ovengine;
using namespace ovengine::scenarios;

struct Scenario {
    const char* name;
    bool (*run)(rl::test_params&);
    unsigned iterations;
};
const Scenario kScenarios[] = {
    {"claims", rl::simulate<Claims<2>>, 300'000},
    {"stale_claim", rl::simulate<StaleClaim>, 300'000},
    {"publish_park", rl::simulate<PublishPark>, 300'000},
    {"lane_owner", rl::simulate<LaneOwner>, 200'000},
    {"complete_wait", rl::simulate<CompleteWait<false>>, 300'000},
    {"complete_wait_timed", rl::simulate<CompleteWait<true>>, 300'000},
    {"attach_set", rl::simulate<AttachSet>, 300'000},
    {"deliver", rl::simulate<Deliver>, 200'000},
    {"give_take", rl::simulate<GiveTake>, 200'000},
    {"push_pop", rl::simulate<PushPop>, 200'000},
    {"pop_pop", rl::simulate<PopPop>, 200'000},
    {"settle_release", rl::simulate<SettleRelease>, 200'000},
    {"cancel_complete", rl::simulate<CancelComplete>, 200'000},
    {"core_submit", rl::simulate<CoreSubmit<2>>, 40'000},
    {"core_submit_ring", rl::simulate<CoreSubmit<1>>, 40'000},
    {"core_two_lanes", rl::simulate<CoreTwoLanes>, 40'000},
    {"core_room", rl::simulate<CoreRoom>, 40'000},
    {"core_job", rl::simulate<CoreJob<false>>, 20'000},
    {"core_job_cancel", rl::simulate<CoreJob<true>>, 20'000},
    {"queue_close", rl::simulate<QueueClose>, 100'000},
    {"keeper_notice", rl::simulate<KeeperNotice>, 100'000},
    {"keeper_stop", rl::simulate<KeeperStop>, 100'000},
    {"core_terms", rl::simulate<CoreTerms>, 40'000},
    {"queue_elsewhere", rl::simulate<QueueElsewhere>, 100'000},
    {"core_keys", rl::simulate<CoreKeys>, 20'000},
    {"core_session", rl::simulate<CoreSession>, 20'000},
    {"core_install", rl::simulate<CoreInstall>, 20'000},
    {"core_borrow", rl::simulate<CoreBorrow>, 40'000},
    {"core_cancel", rl::simulate<CoreCancel>, 40'000},
    {"core_lease", rl::simulate<CoreLease>, 40'000},
    {"core_close", rl::simulate<CoreClose>, 40'000},
};

std::memory_order order_of(const std::string& name) {
    for (const auto order : {std::memory_order_relaxed, std::memory_order_acquire, std::memory_order_release,
                             std::memory_order_acq_rel, std::memory_order_seq_cst})
        if (name == model::name_of(order)) return order;
    throw std::invalid_argument("no memory order " + name);
}

}  // namespace

int main(int argc, char** argv) {
    unsigned iterations = 0;
    bool verbose = false;
    std::set<std::string> wanted;
    for (int i = 1; i < argc; ++i) {
        const std::string option = argv[i];
        if (option == "--sites") {
            model::record_sites = true;
        } else if (option == "--verbose") {
            verbose = true;
        } else if (option == "--iterations" && i + 1 < argc) {
            iterations = static_cast<unsigned>(std::stoul(argv[++i]));
        } else if (option == "--weaken" && i + 1 < argc) {
            static std::vector<std::string> parts;
            std::istringstream text(argv[++i]);
            for (std::string part; std::getline(text, part, ':');) parts.push_back(part);
            if (parts.size() != 4) throw std::invalid_argument("--weaken FILE:LINE:PART:ORDER");
            const auto line = static_cast<unsigned>(std::stoul(parts[1]));
            model::weakened = {model::Site{parts[0].c_str(), line, parts[2].c_str()}, order_of(parts[3])};
        } else {
            wanted.insert(option);
        }
    }
    int passed = 0, failed = 0;
    for (const auto& scenario : kScenarios) {
        if (!wanted.empty() && !wanted.contains(scenario.name)) continue;
        model::sites.clear();
        rl::ostringstream output;
        rl::test_params params;
        params.iteration_count = iterations != 0 ? iterations : scenario.iterations;
        params.execution_depth_limit = 20'000;
        params.output_stream = params.progress_stream = &output;
        const auto start = std::chrono::steady_clock::now();
        const bool good = scenario.run(params);
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
        std::printf("%s: %s (%lu executions, %.1f s)\n", scenario.name, good ? "ok" : "FAILED",
                    static_cast<unsigned long>(params.stop_iteration), took.count());
        if (!good && verbose) std::printf("%s\n", output.str().c_str());
        for (const auto& [site, access] : model::sites)
            std::printf("site %s %s:%u:%s %s %s\n", scenario.name, site.file, site.line, site.part, access.operation,
                        model::name_of(access.order));
        ++(good ? passed : failed);
        std::fflush(stdout);
    }
    std::printf("%d passed, %d failed\n", passed, failed);
    return failed == 0 && passed > 0 ? 0 : 1;
}
