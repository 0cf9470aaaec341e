//! ServiceAccount tokens: issued and checked. ES256 JSON Web Tokens with Kubernetes' claims.
