// The example hypervisor over dwcp.hpp: same program, options and output as ../c/hypervisor.c.
//
// The guest, its proof and the console are the C files; here is what the library is told and asked:
// SourceGuest and DestinationGuest, then Host, which leads the guest on its way.
#include "console.h"
#include "self_test.h"

#include <dwcp.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <cinttypes>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <poll.h>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr double FOREVER_SECONDS = 1e9;

volatile std::sig_atomic_t must_stop = 0;

/// The program is to end with this code; the reason was said.
struct Ended {
    int code;
};

struct GuestDeleter {
    void operator()(guest *guest) const noexcept { guest_free(guest); }
};
using GuestHandle = std::shared_ptr<guest>;

GuestHandle make_guest(const options &options) {
    guest *made = guest_for(&options);
    if (made == nullptr) throw Ended{EXIT_SETUP};
    return GuestHandle(made, GuestDeleter());
}

void check(guest *guest, int result) {
    if (result != 0) throw std::runtime_error(guest_error(guest));
}

/// What a running guest does, however the library learns of its writes.
class RunningGuest {
public:
    explicit RunningGuest(GuestHandle guest) : guest_(std::move(guest)) {}
    guest *get() const { return guest_.get(); }
    void pause() {
        int result = guest_pause(get());
        stopped_at = guest_counters(get());
        check(get(), result);
    }
    void resume() { check(get(), guest_resume(get())); }
    std::vector<std::uint8_t> save() {
        std::vector<std::uint8_t> state(GUEST_STATE_MAX_BYTES);
        std::size_t length = 0;
        check(get(), guest_save(get(), state.data(), &length));
        state.resize(length);
        return state;
    }
    void throttle(std::uint32_t percent) { guest_throttle(get(), percent); }
    void start_dirty_log() { check(get(), guest_start_dirty_log(get())); }
    void fetch_dirty(std::uint64_t *log, std::size_t words) {
        check(get(), guest_fetch_dirty(get(), log, words));
    }
    void finish() {
        throttle(0);
        if (guest_has_dirty_log(get())) check(get(), guest_stop_dirty_log(get()));
    }

    std::optional<struct guest_counters> stopped_at;

private:
    GuestHandle guest_;
};

/// A source by callbacks; Base says whether the guest or the kernel logs the writes.
template <typename Base> class SourceGuest : public Base {
public:
    explicit SourceGuest(std::shared_ptr<RunningGuest> guest) : guest_(std::move(guest)) {}
    void pause() override { guest_->pause(); }
    void resume() override { guest_->resume(); }
    void save_device_state(dwcp::Writer &writer) override {
        std::vector<std::uint8_t> state = guest_->save();
        writer.write(state.data(), state.size());
    }
    bool throttle(std::uint32_t percent) override { return guest_->throttle(percent), true; }
    void finish(dwcp::Ending) override { guest_->finish(); }

protected:
    std::shared_ptr<RunningGuest> guest_;
};

class LoggedGuest final : public SourceGuest<dwcp::Source> {
public:
    using SourceGuest::SourceGuest;
    void start_dirty_log() override { guest_->start_dirty_log(); }
    void fetch_dirty(std::uint32_t, std::uint64_t *log, std::size_t words) override {
        guest_->fetch_dirty(log, words);
    }
};

using TrackedGuest = SourceGuest<dwcp::TrackedSource>;

/// An empty guest that proves what it was given before it runs.
class DestinationGuest final : public dwcp::Destination {
public:
    DestinationGuest(GuestHandle guest, const options &options)
        : guest_(std::move(guest)), options_(options) {}
    void load_device_state(const void *state, std::size_t length) override {
        check(guest_.get(),
              guest_load(guest_.get(), static_cast<const std::uint8_t *>(state), length));
    }
    void resume() override {
        program_damage(guest_memory(guest_.get()), options_.corrupt);
        verify_arrival(guest_.get(), options_.verify, &arrival_);
        check(guest_.get(), guest_resume(guest_.get()));
    }
    const proof &arrival() { return *verify_result(&arrival_); }

private:
    GuestHandle guest_;
    const options &options_;
    verification arrival_{};
};

/// The node, the guest of the moment, and what there is to say at the end.
class Host {
public:
    explicit Host(const options &options)
        : options_(options), guest_(make_guest(options)) {
        show_guest(guest_.get(), &options_);
        dwcp::NodeOptions wanted;
        wanted.listen = options.listen ? options.listen : "";
        wanted.state_dir = options.state_dir ? options.state_dir : "";
        wanted.identity_dir = options.identity ? options.identity : "";
        wanted.flags = options.identity ? 0 : DWCP_NODE_PLAIN;
        try {
            node_.emplace(wanted);
            if (options.control) node_->serve_control(options.control);
        } catch (const dwcp::Error &error) {
            say("starting a node: %s", error.what());
            throw Ended{EXIT_SETUP};
        }
        if (options.listen) say("listening on %s", node_->listen_address().c_str());
        if (options.control) say("control socket %s", options.control);
    }

    void run() {
        if (options_.mode == MODE_SOURCE) {
            if (boot_guest(guest_.get(), &options_) != 0 || !wait_until_filled(guest_.get())) {
                say("the guest does not run: %s", guest_error(guest_.get()));
                throw Ended{EXIT_SETUP};
            }
            send(options_.after_seconds);
            if (!options_.await_return || must_stop) return;
            guest_ = make_guest(options_);
            receive();
        } else {
            receive();
            if (options_.to || options_.stay) send(0);
        }
    }

    void print_json(int code) const {
        std::printf("{\"mode\":\"%s\",\"kind\":\"%s\",\"exit_code\":%d",
                    options_.mode == MODE_SOURCE ? "source" : "destination",
                    guest_kind_of(guest_.get()) == GUEST_KVM ? "kvm" : "thread", code);
        if (stopped_at_)
            std::printf(",\"stopped_at\":{\"writes\":%" PRIu64 ",\"ticks\":%" PRIu32 "}",
                        stopped_at_->writes, stopped_at_->ticks);
        else
            std::printf(",\"stopped_at\":null");
        std::printf(",\"sent\":%s,\"received\":%s", sent_.c_str(), received_.c_str());
        print_proof("arrival_proof", arrival_proof_);
        print_proof("later_proof", later_proof_);
        std::printf("}\n");
    }

private:
    static void print_proof(const char *name, const std::optional<proof> &proof) {
        char text[768] = "null";
        if (proof) format_proof(&*proof, text, sizeof(text));
        std::printf(",\"%s\":%s", name, text);
    }

    std::vector<dwcp::Region> regions() const {
        return {{"ram", 0, guest_memory(guest_.get()), guest_memory_bytes(guest_.get())}};
    }

    /// Without its own dirty log, the kernel tracks the guest's memory.
    void register_source() {
        running_ = std::make_shared<RunningGuest>(guest_);
        arriving_.reset();
        if (options_.event_loop && guest_has_dirty_log(guest_.get()))
            node_->add_source(options_.name, regions());
        else if (guest_has_dirty_log(guest_.get()))
            node_->add_source(options_.name, std::make_shared<LoggedGuest>(running_), regions());
        else
            node_->add_process_memory_source(options_.name,
                                             std::make_shared<TrackedGuest>(running_), regions());
    }

    void register_destination() {
        running_.reset();
        arriving_ = std::make_shared<DestinationGuest>(guest_, options_);
        if (options_.event_loop)
            node_->add_destination(options_.name, regions());
        else
            node_->add_destination(options_.name, arriving_, regions());
    }

    /// The same as the callbacks, asked for through the file descriptor.
    std::vector<std::uint8_t> serve(const dwcp_completion &request) {
        auto *log = static_cast<std::uint64_t *>(request.buffer);
        switch (request.code) {
        case DWCP_REQUEST_START_DIRTY_LOG: running_->start_dirty_log(); break;
        case DWCP_REQUEST_FETCH_DIRTY:
            running_->fetch_dirty(log, request.buffer_bytes / sizeof(*log));
            break;
        case DWCP_REQUEST_PAUSE: running_->pause(); break;
        case DWCP_REQUEST_RESUME: arriving_ ? arriving_->resume() : running_->resume(); break;
        case DWCP_REQUEST_SAVE_DEVICE_STATE: return running_->save();
        case DWCP_REQUEST_LOAD_DEVICE_STATE:
            arriving_->load_device_state(request.buffer, request.buffer_bytes);
            break;
        case DWCP_REQUEST_THROTTLE: running_->throttle(request.value); break;
        case DWCP_REQUEST_FINISH:
            if (running_) running_->finish();
            break;
        default: throw std::runtime_error("an unknown request");
        }
        return {};
    }

    void answer(const dwcp_completion &request) {
        std::vector<std::uint8_t> state;
        std::int32_t result = DWCP_OK;
        try {
            state = serve(request);
        } catch (const std::exception &error) {
            say("request %u failed: %s", request.code, error.what());
            result = DWCP_ERR_CALLBACK;
        }
        node_->complete(request.id, result, state.empty() ? nullptr : state.data(), state.size());
    }

    void reap() {
        for (const dwcp_completion &completion : node_->reap()) {
            if (completion.migration[0] != '\0') migration_id_ = completion.migration;
            if (completion.kind == DWCP_COMPLETION_REQUEST)
                answer(completion);
            else if (completion.kind == DWCP_COMPLETION_MIGRATION_ENDED)
                has_ended_ = true;
        }
    }

    /// An incoming migration is known by a completion first; its handle is opened as soon as it can.
    void find_migration() {
        if (migration_ || migration_id_.empty()) return;
        try {
            migration_ = node_->migration(migration_id_);
        } catch (const dwcp::Error &error) {
            if (error.code() != DWCP_ERR_NOT_FOUND) throw;
        }
    }

    void show_migration() const {
        static const char *const names[] = {"",       "connect",  "precopy", "final_pass",
                                            "device_state", "verify", "handover", "resume",
                                            "ended"};
        if (!migration_ || has_ended_) return;
        dwcp_progress now = migration_->progress();
        shown_progress shown{};
        shown.phase = now.phase <= DWCP_PHASE_ENDED ? names[now.phase] : "";
        shown.pass = now.pass;
        shown.streams = now.streams;
        shown.throttle_percent = now.throttle_percent;
        shown.pages = now.pages;
        shown.remaining_pages = now.remaining_pages;
        shown.wire_bytes = now.wire_bytes;
        shown.bandwidth_bytes_per_s = now.bandwidth_bytes_per_s;
        shown.dirty_rate_bytes_per_s = now.dirty_rate_bytes_per_s;
        shown.predicted_downtime_us = now.predicted_downtime_us;
        shown.elapsed_us = now.elapsed_us;
        show_progress(&shown);
    }

    bool has_report() {
        return has_ended_ && migration_ && migration_->wait(std::chrono::milliseconds(0));
    }

    /// Serves the node for so long, less if a migration ends or the program is to stop.
    void attend(double seconds) {
        constexpr double tick_seconds = 0.1;
        Clock::time_point start = Clock::now();
        for (;;) {
            double left = seconds - Seconds(Clock::now() - start).count();
            if (must_stop || has_report() || left <= 0) return;
            pollfd descriptor{node_->fd(), POLLIN, 0};
            int wait_ms = static_cast<int>(std::min(left, tick_seconds) * 1000) + 1;
            if (poll(&descriptor, 1, wait_ms) > 0) reap();
            find_migration();
            show_migration();
        }
    }

    void forget_migration() {
        migration_.reset();
        migration_id_.clear();
        has_ended_ = false;
    }

    dwcp::MigrationOptions migration_options() const {
        dwcp::MigrationOptions wanted;
        std::string codec = options_.codec;
        wanted.streams = options_.streams;
        wanted.codec = codec == "none"   ? DWCP_CODEC_NONE
                       : codec == "lz4"  ? DWCP_CODEC_LZ4
                       : codec == "zstd" ? DWCP_CODEC_ZSTD
                                         : DWCP_CODEC_DEFAULT;
        wanted.codec_level = options_.codec_level;
        wanted.flags = options_.no_throttle ? DWCP_MIGRATION_NO_THROTTLE : 0;
        wanted.max_downtime_us = options_.max_downtime_ms * 1000;
        wanted.deadline_ms = options_.deadline_ms;
        wanted.bandwidth_limit_bytes_per_s = options_.bandwidth_mib_per_s << 20;
        return wanted;
    }

    /// Says how the migration ended; who owns the guest.
    std::uint32_t show_end(std::string &json) {
        dwcp_report report = migration_->report();
        json = migration_->report_json();
        if (report.status != DWCP_OK)
            say("migration failed: %s: %s", dwcp_status_name(report.status),
                migration_->reason().c_str());
        else
            say("migrated in %.1f ms, the guest stood still for %.1f ms: %" PRIu64
                " MiB of memory, %.1f MiB on the wire, %u passes, %u reconnects, digest %s",
                static_cast<double>(report.total_us) / 1000,
                static_cast<double>(report.downtime_us) / 1000, report.ram_bytes >> 20,
                static_cast<double>(report.wire_bytes) / (1 << 20), report.passes,
                report.reconnects, report.digest);
        return report.owner;
    }

    bool prove_again(const char *when) {
        proof later{};
        if (verify_running(guest_.get(), &later) != 0) {
            say("the guest failed: %s", guest_error(guest_.get()));
            return false;
        }
        later_proof_ = later;
        show_proof(when, &later);
        return later.holds;
    }

    /// Throws unless the guest is whole and runs, and may be asked to go again.
    void go_on_here() {
        struct guest_counters before = guest_counters(guest_.get());
        forget_migration();
        attend(options_.run_seconds);
        bool runs = guest_gets_on(guest_.get(), before);
        say("the guest %s here, at write %" PRIu64, runs ? "goes on" : "STANDS STILL",
            guest_counters(guest_.get()).writes);
        bool whole = prove_again("after the failure") && runs;
        if (!whole || options_.to) throw Ended{whole ? EXIT_FAILED : EXIT_PROOF};
    }

    /// True once the migration that was asked for ended.
    void migrate() {
        say("migrating to %s", options_.to);
        try {
            migration_ = node_->migrate(options_.name, options_.to, migration_options());
        } catch (const dwcp::Error &error) {
            say("starting the migration: %s", error.what());
            go_on_here();
        }
        attend(FOREVER_SECONDS);
        if (!must_stop || has_ended_) return;
        must_stop = 0; // a second signal ends the program at once
        say("cancelling");
        migration_->cancel();
        attend(FOREVER_SECONDS);
        if (!has_ended_) throw Ended{EXIT_FAILED};
    }

    /// Runs the guest until it has moved to --to (or --return), or until the program is to stop.
    void send(double after_seconds) {
        register_source();
        if (!options_.to) say("ready: guest %s stays until it is told to go", options_.name);
        attend(options_.to ? after_seconds : FOREVER_SECONDS);
        if (must_stop) return; // the guest ends with the program
        if (!has_ended_) migrate();
        std::uint32_t owner = show_end(sent_);
        stopped_at_ = running_->stopped_at;
        while (owner == DWCP_OWNER_SOURCE) {
            go_on_here();
            attend(FOREVER_SECONDS); // somebody's attempt failed; the next one may come
            if (must_stop) return;
            owner = show_end(sent_);
            stopped_at_ = running_->stopped_at;
        }
        if (owner == DWCP_OWNER_IN_DOUBT) {
            say("in doubt: only %s knows who has the guest; it stays stopped here", options_.to);
            throw Ended{EXIT_IN_DOUBT};
        }
        say("the guest stopped at write %" PRIu64 ", tick %u; it now runs at %s",
            stopped_at_->writes, stopped_at_->ticks, options_.to ? options_.to : "its new home");
        forget_migration();
        // Whoever gave the order through the socket still wants to hear how it ended.
        if (options_.control) std::this_thread::sleep_for(std::chrono::seconds(1));
    }

    /// Waits for a guest, proves that it is whole, runs it and proves it again.
    void receive() {
        register_destination();
        say("waiting for guest %s", options_.name);
        for (;;) {
            attend(FOREVER_SECONDS);
            if (!has_ended_) throw Ended{EXIT_FAILED}; // told to stop
            if (show_end(received_) == DWCP_OWNER_DESTINATION) break;
            forget_migration();
            say("still waiting for guest %s", options_.name);
        }
        forget_migration();
        prove_arrival();
    }

    void prove_arrival() {
        arrival_proof_ = arriving_->arrival();
        show_proof("at arrival", &*arrival_proof_);
        struct guest_counters saved = guest_loaded_counters(guest_.get());
        say("the guest goes on from write %" PRIu64 ", tick %u", saved.writes, saved.ticks);
        attend(options_.run_seconds);
        bool runs = guest_gets_on(guest_.get(), saved);
        bool later = prove_again("after running on");
        say("the guest %s: %" PRIu64 " writes since it arrived", runs ? "runs" : "DOES NOT RUN",
            guest_counters(guest_.get()).writes - saved.writes);
        if (!arrival_proof_->holds || !later || !runs) throw Ended{EXIT_PROOF};
    }

    const options &options_;
    GuestHandle guest_;
    std::shared_ptr<RunningGuest> running_;
    std::shared_ptr<DestinationGuest> arriving_;
    std::optional<struct guest_counters> stopped_at_;
    std::optional<proof> arrival_proof_, later_proof_;
    std::string sent_ = "null", received_ = "null";
    bool has_ended_ = false;
    std::string migration_id_;
    std::optional<dwcp::Node> node_; // ends before what its callbacks use
    std::optional<dwcp::Migration> migration_;
};

int run(const options &options) {
    int code = EXIT_FINE;
    std::optional<Host> host;
    try {
        host.emplace(options);
        host->run();
    } catch (const Ended &ended) {
        code = ended.code;
    } catch (const dwcp::Error &error) {
        say("%s", error.what());
        code = EXIT_SETUP;
    }
    if (options.json && host) host->print_json(code);
    return code;
}

} // namespace

int main(int count, char **arguments) {
    options options;
    int code;
    if (!options_parse(&options, count, arguments, &code)) return code;
    console_open(&options);
    if (options.mode == MODE_SELF_TEST) return self_test(&options);
    std::signal(SIGINT, [](int) { must_stop = 1; });
    std::signal(SIGTERM, [](int) { must_stop = 1; });
    return run(options);
}
