/* Runs a task graph on oneTBB's flow graph, for bench/scheduler.py:  tbb_graph FILE MODE THREADS NS
 *
 * FILE: int32 groups, then for each group: tasks, number of groups before it, those groups.
 * MODE `task`: a continue_node per task, between a node that starts and a node that ends its group (so edges grow with tasks,
 * not with their square). MODE `group`: a node per group, which runs its tasks by parallel_for.
 * A task takes NS nanoseconds. Each line on stdin runs the graph once and prints the seconds that it took.
 */
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
using Clock = std::chrono::steady_clock;

struct Group {
    int32_t tasks;
    std::vector<int32_t> before;
};

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
    auto duration = std::chrono::nanoseconds(atoll(arguments[4]));
    auto body = [duration] {
        if (duration.count())
            for (auto end = Clock::now() + duration; Clock::now() < end;)
                ;
    };

    tbb::flow::graph graph;
    std::deque<Node> nodes;
    std::vector<Node *> first, last, roots;
    for (const Group &group : groups) {
        if (per_task) {
            first.push_back(&nodes.emplace_back(graph, [](Message) { return Message(); }));
            last.push_back(&nodes.emplace_back(graph, [](Message) { return Message(); }));
            for (int32_t i = 0; i < group.tasks; i++) {
                Node &task = nodes.emplace_back(graph, [body](Message) { body(); return Message(); });
                tbb::flow::make_edge(*first.back(), task);
                tbb::flow::make_edge(task, *last.back());
            }
        } else {
            int32_t tasks = group.tasks;
            first.push_back(&nodes.emplace_back(graph, [tasks, body](Message) {
                tbb::parallel_for(0, tasks, [body](int) { body(); });
                return Message();
            }));
            last.push_back(first.back());
        }
        for (int32_t number : group.before)
            tbb::flow::make_edge(*last[number], *first.back());
        if (group.before.empty())
            roots.push_back(first.back());
    }
    for (std::string line; std::getline(std::cin, line);) {
        auto begin = Clock::now();
        for (Node *root : roots)
            root->try_put(Message());
        graph.wait_for_all();
        std::cout << std::chrono::duration<double>(Clock::now() - begin).count() << std::endl;
    }
}
