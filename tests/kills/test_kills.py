"""A server that is killed a few times loses no file, and nothing of what they hold."""

from killed_servers import kill_servers


def test_files_of_sessions_survive_the_kills_of_a_server(tmp_path):
    said = [*kill_servers(tmp_path, count=3, seed=0, known=6)]
    assert not [line for line in said if line.startswith("FAULT")]
