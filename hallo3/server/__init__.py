"""Videos over HTTP for programs, in the ``/v1/videos`` that clients of OpenAI and vLLM-Omni speak."""
