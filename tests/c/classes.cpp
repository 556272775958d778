// The C++ classes: a migration with virtual functions, exceptions both ways.
#include "dwcp.hpp"
#include "check.h"
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <thread>

namespace {

constexpr std::size_t kPages = 256, kPageBytes = 4096;

std::vector<unsigned char> memory() { return std::vector<unsigned char>(kPages * kPageBytes); }

std::vector<dwcp::Region> regions(std::vector<unsigned char> &memory) {
    return {{"ram", 0, memory.data(), memory.size()}};
}

/// A guest that is written by hand, page by page.
class Machine : public dwcp::Source {
public:
    explicit Machine(std::vector<unsigned char> &memory) : memory_(memory) {}
    void write(std::size_t page, unsigned char value) {
        std::lock_guard<std::mutex> hold(lock_);
        memory_[page * kPageBytes] = value;
        log_[page / 64] |= std::uint64_t(1) << (page % 64);
    }
    void start_dirty_log() override {
        if (refuse) throw std::runtime_error("no log today");
    }
    void fetch_dirty(std::uint32_t, std::uint64_t *log, std::size_t words) override {
        std::lock_guard<std::mutex> hold(lock_);
        for (std::size_t i = 0; i < words; i++) log[i] |= std::exchange(log_[i], 0);
    }
    void pause() override { paused = true; }
    void resume() override { paused = false; }
    void save_device_state(dwcp::Writer &writer) override { writer.write("cpu", 3); }
    void finish(dwcp::Ending ending) override { kept = ending == dwcp::Ending::keep; }

    bool refuse = false;
    std::atomic<bool> paused{false}, kept{false};

private:
    std::vector<unsigned char> &memory_;
    std::mutex lock_;
    std::uint64_t log_[kPages / 64] = {};
};

class Shell : public dwcp::Destination {
public:
    void load_device_state(const void *state, std::size_t length_bytes) override {
        loaded.assign(static_cast<const char *>(state), length_bytes);
    }
    void resume() override { resumed = true; }

    std::string loaded;
    std::atomic<bool> resumed{false};
};

dwcp::NodeOptions listening() {
    dwcp::NodeOptions options;
    options.flags = DWCP_NODE_PLAIN;
    options.listen = "127.0.0.1:0";
    return options;
}

void a_qemu_that_is_not_there_throws() {
    dwcp::Node node;
    CHECK(node.clear_held() == 0 && node.clear_held("vm", 60) == 0);
    try {
        node.attach_qemu("vm", "/nowhere/qmp.sock", true);
        CHECK(false);
    } catch (const dwcp::Error &error) {
        CHECK(error.code() == DWCP_ERR_CONNECT);
        CHECK(std::string(error.what()).find("/nowhere/qmp.sock") != std::string::npos);
    }
}

void peers_are_looked_at() {
    dwcp::Node here(listening()), there(listening());
    std::string address = there.listen_address();
    here.add_peer(address);
    CHECK(here.probe_peer(address, 2).answers == 2);
    CHECK(here.detect_mode(address).flags & DWCP_PEER_HEARD);
    auto transport = here.transport();
    transport.internet_streams = 1;
    here.set_transport(transport);
    auto paths = here.paths();
    paths.dscp = 46;
    here.set_paths(paths);
    CHECK(here.paths().dscp == 46);
    auto rdma = here.rdma();
    rdma.flags = DWCP_RDMA_ENABLED;
    here.set_rdma(rdma);
    CHECK(here.rdma().flags == DWCP_RDMA_ENABLED);
    here.set_mode(DWCP_MODE_INTERNET);
    CHECK(here.peer(address).mode == DWCP_MODE_INTERNET);
    here.set_mode(DWCP_MODE_HYBRID, address);
    CHECK(here.peer(address).forced == DWCP_MODE_HYBRID);
    dwcp::TransportTestOptions how;
    how.duration_ms = 100;
    how.mode = DWCP_MODE_INTERNET;
    CHECK(here.test_transport(address, how).streams == 1);
    CHECK(here.test_transport("", how).bytes > 0);
    here.share_paths_with("127.0.0.1");
    CHECK(here.peers_json().find(address) != std::string::npos);
    dwcp_status code = DWCP_OK;
    try {
        here.remove_peer("10.0.0.1:1");
    } catch (const dwcp::Error &error) {
        code = error.code();
    }
    CHECK(code == DWCP_ERR_NOT_FOUND);
}

void flags_are_set_and_decided() {
    dwcp::Node node;
    auto decider = node.decider(DWCP_FLAG_HYBRID_MODE, "rack1|rack2");
    CHECK(decider.is_on() && decider && decider.explain().reason == DWCP_REASON_PERCENTAGE);
    node.set_flags({dwcp::FlagChange(DWCP_FLAG_HYBRID_MODE).percent(12.3456).allow_list("rack9"),
                    dwcp::FlagChange(DWCP_FLAG_ML_COMPRESSION).enabled(false).owner("net")},
                   "a test");
    auto hybrid = node.flag(DWCP_FLAG_HYBRID_MODE);
    CHECK(hybrid.rollout_ppm == 123456 && hybrid.allow_count == 1);
    CHECK(node.explain_flag(DWCP_FLAG_HYBRID_MODE, "rack9|x").reason == DWCP_REASON_ALLOWED);
    CHECK(node.explain_flag(DWCP_FLAG_ML_COMPRESSION, "a|b").reason == DWCP_REASON_NOT_ENABLED);
    node.set_flag(dwcp::FlagChange(DWCP_FLAG_HYBRID_MODE).percent(100).schedule("none"), "all");
    CHECK(decider.is_on());
    node.start_schedule(DWCP_FLAG_HYBRID_MODE, "six weeks");
    CHECK(node.flag(DWCP_FLAG_HYBRID_MODE).bits & DWCP_FLAG_STATE_SCHEDULED);
    node.stop_schedule(DWCP_FLAG_HYBRID_MODE, "by hand");
    node.set_flag(dwcp::FlagChange(DWCP_FLAG_HYBRID_MODE).percent(100), "all");
    auto limits = node.rollback_limits();
    limits.max_error_rate_ppm = 20000;
    node.set_rollback_limits(limits);
    CHECK(node.rollback_limits().max_error_rate_ppm == 20000);
    CHECK(node.rollouts_json().find("is_in_flight") != std::string::npos);
    node.throw_kill_switch("a drill");
    CHECK(!decider && decider.explain().reason == DWCP_REASON_KILL_SWITCH);
    node.lift_kill_switch();
    node.set_rollout_members({"rack1", "rack2"});
    node.disable_all_flags("the end", "tester");
    CHECK(!decider.is_on());
    CHECK(node.flag_history_json(1).find("\"who\":\"tester\"") != std::string::npos);
    CHECK(node.flags_json().find("pbft_consensus") != std::string::npos);
    dwcp_status code = DWCP_OK;
    try {
        node.clear_latch(DWCP_FLAG_HYBRID_MODE, "there is none");
    } catch (const dwcp::Error &error) {
        code = error.code();
    }
    CHECK(code == DWCP_ERR_BAD_STATE);
    code = DWCP_OK;
    try {
        node.set_flag(dwcp::FlagChange(DWCP_FLAG_HYBRID_MODE).percent(100.1), "too much");
    } catch (const dwcp::Error &error) {
        code = error.code();
    }
    CHECK(code == DWCP_ERR_INVALID_ARGUMENT);
    dwcp::Decider other(std::move(decider)), none;
    CHECK(!none.is_on() && decider.get() == nullptr && other.get() != nullptr);
}

void a_guest_moves() {
    auto from_memory = memory(), to_memory = memory();
    dwcp::Node from(listening()), to(listening());
    auto machine = std::make_shared<Machine>(from_memory);
    auto shell = std::make_shared<Shell>();
    for (std::size_t page = 0; page < kPages; page += 5) machine->write(page, 1 + page % 200);
    from.add_source("vm", machine, regions(from_memory));
    to.add_destination("vm", shell, regions(to_memory));
    auto migration = from.migrate("vm", to.listen_address());
    CHECK(migration.wait() == DWCP_OK);
    CHECK(migration.owner() == DWCP_OWNER_DESTINATION);
    CHECK(machine->paused && !machine->kept && shell->loaded == "cpu");
    CHECK(from_memory == to_memory);
    CHECK(migration.report().full_pages >= kPages / 5);
    CHECK(migration.report_json().find(migration.id()) != std::string::npos);
    auto arrived = to.migration(migration.id());
    CHECK(arrived.wait() == DWCP_OK && shell->resumed);
    from.stop();
    to.stop();
    CHECK(machine.use_count() == 1 && shell.use_count() == 1);
}

void an_exception_in_a_guest_becomes_the_reason() {
    auto from_memory = memory(), to_memory = memory();
    dwcp::Node from(listening()), to(listening());
    auto machine = std::make_shared<Machine>(from_memory);
    machine->refuse = true;
    from.add_source("vm", machine, regions(from_memory));
    to.add_destination("vm", std::make_shared<Shell>(), regions(to_memory));
    auto migration = from.migrate("vm", to.listen_address());
    CHECK(migration.wait() == DWCP_ERR_CALLBACK);
    CHECK(migration.reason().find("no log today") != std::string::npos);
    CHECK(migration.owner() == DWCP_OWNER_SOURCE);
}

void errors_are_exceptions_or_codes() {
    dwcp::NodeOptions plain;
    plain.flags = DWCP_NODE_PLAIN;
    dwcp::Node node(plain);
    bool thrown = false;
    try {
        node.remove_guest("nobody");
    } catch (const dwcp::Error &error) {
        thrown = error.code() == DWCP_ERR_NOT_FOUND && strstr(error.what(), "nobody");
    }
    CHECK(thrown);
    dwcp::NodeOptions bad;
    bad.flags = DWCP_NODE_PLAIN;
    bad.listen = "nowhere";
    dwcp_status code = DWCP_OK;
    CHECK(!dwcp::Node::open(bad, code, std::nothrow) && code == DWCP_ERR_INVALID_ARGUMENT);
    dwcp::Migration migration;
    code = node.migrate("nobody", "h:1", dwcp::MigrationOptions(), migration, std::nothrow);
    CHECK(code == DWCP_ERR_NOT_FOUND && migration.get() == nullptr);
}

void a_refused_guest_stays_the_callers() {
    auto bytes = memory();
    dwcp::Node node;
    auto shell = std::make_shared<Shell>();
    bool thrown = false;
    try {
        node.add_destination("", shell, regions(bytes));
    } catch (const dwcp::Error &) {
        thrown = true;
    }
    CHECK(thrown && shell.use_count() == 1);
}

void a_node_can_be_moved() {
    dwcp::Node first(listening());
    std::string address = first.listen_address();
    dwcp::Node second(std::move(first));
    CHECK(second.listen_address() == address && first.get() == nullptr);
    bool thrown = false;
    try {
        first.fd();
    } catch (const dwcp::Error &error) {
        thrown = error.code() == DWCP_ERR_BAD_HANDLE;
    }
    CHECK(thrown);
}

} // namespace

int main() {
    CASE(errors_are_exceptions_or_codes);
    CASE(a_node_can_be_moved);
    CASE(a_refused_guest_stays_the_callers);
    CASE(peers_are_looked_at);
    CASE(flags_are_set_and_decided);
    CASE(a_guest_moves);
    CASE(a_qemu_that_is_not_there_throws);
    CASE(an_exception_in_a_guest_becomes_the_reason);
    return REPORT();
}
