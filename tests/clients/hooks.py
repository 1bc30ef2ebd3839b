"""What Schemathesis cannot know: the one model that is served. Any other name is a 404, and nothing else is looked at."""

import schemathesis

MODEL = "sparkv-demo"


@schemathesis.hook
def map_body(_context, body):
    if isinstance(body, dict) and isinstance(body.get("model"), str):
        body["model"] = MODEL
    return body


@schemathesis.hook
def map_path_parameters(_context, parameters):
    if parameters and "name" in parameters:
        parameters["name"] = MODEL
    return parameters
