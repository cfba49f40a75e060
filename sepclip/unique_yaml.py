"""YAML in which a key that is given twice is an error: PyYAML would silently use the last one."""

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[Any] = set()
        for key_node, _ in node.value:
            # "<<" may merge several mappings, whose keys may be the same
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node)
            if key in keys:
                problem = f"the key {key!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            keys.add(key)
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """Return the plain data in a YAML document. Raises yaml.YAMLError if it is not one, or has a key twice."""
    return yaml.load(text, _Loader)  # a SafeLoader
