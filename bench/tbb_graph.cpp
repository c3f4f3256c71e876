/* Runs a task graph on oneTBB's flow graph, for bench/scheduler.py:  tbb_graph FILE MODE THREADS NS
 *
 * FILE: int32 groups, then for each group: tasks, number of groups before it, those groups.
 * MODE `task`: a continue_node per task, between a node that starts and a node that ends its group (so edges grow with tasks,
 * not with their square). MODE `group`: a node per group, which runs its tasks by parallel_for.
 * A task takes NS nanoseconds; if that is 0, nothing. Each line on stdin runs the graph once and prints the seconds that it
 * took and, if tasks take time, the median seconds from the end of a group's last task to the start of the next group's last.
 */
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <iostream>
#include <string>
#include <vector>

#include <tbb/flow_graph.h>
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>

using Node = tbb::flow::continue_node<tbb::flow::continue_msg>;
using Message = tbb::flow::continue_msg;

struct Stamp {
    int64_t begin, end; /* ns */
};

struct Group {
    int32_t tasks;
    std::vector<int32_t> before;
};

static int64_t now()
{
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

static double median_handover(const std::vector<std::vector<Stamp>> &stamps)
{
    std::vector<int64_t> handovers;
    int64_t end = 0;
    for (const std::vector<Stamp> &group : stamps) {
        int64_t begin = 0, next = 0;
        for (const Stamp &stamp : group) {
            begin = std::max(begin, stamp.begin);
            next = std::max(next, stamp.end);
        }
        handovers.push_back(begin - end);
        end = next;
    }
    std::nth_element(handovers.begin(), handovers.begin() + handovers.size() / 2, handovers.end());
    return handovers[handovers.size() / 2] / 1e9;
}

static std::vector<Group> read_groups(const char *path)
{
    FILE *file = fopen(path, "rb");
    auto next = [&] {
        int32_t value;
        if (!file || fread(&value, sizeof value, 1, file) != 1) {
            fprintf(stderr, "%s: cannot be read\n", path);
            exit(1);
        }
        return value;
    };
    std::vector<Group> groups(next());
    for (Group &group : groups) {
        group.tasks = next();
        group.before.resize(next());
        for (int32_t &number : group.before)
            number = next();
    }
    fclose(file);
    return groups;
}

int main(int count, char **arguments)
{
    if (count != 5)
        return 2;
    std::vector<Group> groups = read_groups(arguments[1]);
    bool per_task = !strcmp(arguments[2], "task");
    tbb::global_control threads(tbb::global_control::max_allowed_parallelism, atoi(arguments[3]));
    int64_t duration = atoll(arguments[4]);
    std::vector<std::vector<Stamp>> stamps;
    for (const Group &group : groups)
        stamps.emplace_back(group.tasks);
    auto body = [duration, &stamps](size_t group, int32_t task) {
        if (!duration)
            return;
        Stamp &stamp = stamps[group][task];
        stamp.begin = now();
        while (now() < stamp.begin + duration)
            ;
        stamp.end = now();
    };

    tbb::flow::graph graph;
    std::deque<Node> nodes;
    std::vector<Node *> first, last, roots;
    for (size_t number = 0; number < groups.size(); number++) {
        const Group &group = groups[number];
        if (per_task) {
            first.push_back(&nodes.emplace_back(graph, [](Message) { return Message(); }));
            last.push_back(&nodes.emplace_back(graph, [](Message) { return Message(); }));
            for (int32_t i = 0; i < group.tasks; i++) {
                Node &task = nodes.emplace_back(graph, [body, number, i](Message) { body(number, i); return Message(); });
                tbb::flow::make_edge(*first.back(), task);
                tbb::flow::make_edge(task, *last.back());
            }
        } else {
            int32_t tasks = group.tasks;
            first.push_back(&nodes.emplace_back(graph, [body, number, tasks](Message) {
                tbb::parallel_for(0, tasks, [&](int32_t i) { body(number, i); });
                return Message();
            }));
            last.push_back(first.back());
        }
        for (int32_t before : group.before)
            tbb::flow::make_edge(*last[before], *first.back());
        if (group.before.empty())
            roots.push_back(first.back());
    }
    for (std::string line; std::getline(std::cin, line);) {
        int64_t begin = now();
        for (Node *root : roots)
            root->try_put(Message());
        graph.wait_for_all();
        double seconds = (now() - begin) / 1e9;
        std::cout << seconds << " " << (duration ? median_handover(stamps) : 0) << std::endl;
    }
}
